package org.apache.iceberg.rest;

import com.fasterxml.jackson.core.JacksonException;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpFilter;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.sql.Connection;
import java.sql.SQLException;
import java.time.Instant;
import java.util.Base64;
import java.util.EnumSet;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.function.Function;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.exceptions.AlreadyExistsException;
import org.apache.iceberg.exceptions.ServiceFailureException;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.jdbc.JdbcClientPool;
import org.apache.iceberg.jdbc.UncheckedSQLException;
import org.apache.iceberg.rest.credentials.ImmutableCredential;
import org.apache.iceberg.rest.responses.ConfigResponse;
import org.apache.iceberg.rest.responses.ErrorResponse;
import org.apache.iceberg.rest.responses.ErrorResponseParser;
import org.apache.iceberg.rest.responses.LoadTableResponse;
import org.apache.iceberg.util.JsonUtil;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.http.UriCompliance;
import org.eclipse.jetty.server.HttpConfiguration;
import org.eclipse.jetty.server.HttpConnectionFactory;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.server.handler.GracefulHandler;
import org.eclipse.jetty.util.thread.QueuedThreadPool;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.http.urlconnection.UrlConnectionHttpClient;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.sts.StsClient;
import software.amazon.awssdk.services.sts.model.AssumeRoleRequest;
import software.amazon.awssdk.services.sts.model.Credentials;

/**
 * Serves Iceberg's JDBC catalog on PostgreSQL by Iceberg's own REST servlet, and adds what that lacks: OAuth2 client
 * credentials, a health check, and S3 credentials that reach one table only. Every setting is an environment variable,
 * so that no secret shows in the process list.
 */
public final class RestCatalogServer {
  private RestCatalogServer() {}

  public static void main(String[] arguments) throws Exception {
    Map.of(
            "logFile", "System.out",
            "showDateTime", "true",
            "dateTimeFormat", "yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            "defaultLogLevel", "warn",
            "log.org.apache.iceberg.aws.s3.S3FileIO", "error", // warns of Hadoop, which is left out on purpose
            "log.org.apache.iceberg.util.Tasks", "error", // warns of every commit that lost a race
            "log.org.apache.iceberg.rest.RestCatalogServer", "info",
            "log.org.apache.iceberg.rest.RESTCatalogServlet", "off") // prints a stack trace for every 404
        .forEach((name, value) -> System.setProperty("org.slf4j.simpleLogger." + name, value));
    System.setProperty("aws.requestChecksumCalculation", "WHEN_REQUIRED"); // not every S3 server knows the newer ones
    Logger log = LoggerFactory.getLogger(RestCatalogServer.class);

    String warehouse = setting("CATALOG_WAREHOUSE").replaceAll("/+$", "");
    URI endpoint = URI.create(setting("CATALOG_S3_ENDPOINT"));
    Region region = Region.of(setting("CATALOG_S3_REGION", "us-east-1"));
    StaticCredentialsProvider key =
        StaticCredentialsProvider.create(
            AwsBasicCredentials.create(setting("CATALOG_S3_ACCESS_KEY"), setting("CATALOG_S3_SECRET_KEY")));
    StsClient sts =
        StsClient.builder()
            .endpointOverride(endpoint)
            .region(region)
            .credentialsProvider(key)
            .httpClient(UrlConnectionHttpClient.create())
            .build();
    String role = setting("CATALOG_S3_ROLE_ARN", "");
    int seconds = Integer.parseInt(setting("CATALOG_CREDENTIAL_SECONDS", "3600"));
    AssumeRoleRequest.Builder ask =
        AssumeRoleRequest.builder().roleArn(role).roleSessionName("table").durationSeconds(seconds);
    Function<String, Optional<Credentials>> vendor =
        location ->
            policy(warehouse, location)
                .filter(policy -> !role.isEmpty()) // an S3 server without STS has no role to take
                .map(policy -> ask.copy().policy(policy).build())
                .map(request -> sts.assumeRole(request).credentials());

    String url = setting("CATALOG_JDBC_URL");
    Database database =
        new Database(
            url,
            Map.of(
                "clients", "8",
                "jdbc.user", setting("CATALOG_JDBC_USER"),
                "jdbc.password", setting("CATALOG_JDBC_PASSWORD"),
                "jdbc.connectTimeout", "5",
                "jdbc.socketTimeout", "30"));
    Map<String, String> storage =
        Map.of("s3.endpoint", endpoint.toString(), "s3.path-style-access", "true", "client.region", region.id());
    Map<String, String> properties = new HashMap<>(storage);
    properties.put("uri", url);
    properties.put("warehouse", warehouse);
    properties.put("jdbc.schema-version", "V1"); // V0 has no views
    properties.put("jdbc.strict-mode", "true"); // without it a table may lie in a namespace that does not exist
    properties.put("unique-table-location", "true"); // a table made again must not find files of the dropped one
    properties.put("io-impl", "org.apache.iceberg.aws.s3.S3FileIO");
    properties.put("http-client.type", "urlconnection");
    properties.put("s3.access-key-id", setting("CATALOG_S3_ACCESS_KEY"));
    properties.put("s3.secret-access-key", setting("CATALOG_S3_SECRET_KEY"));
    JdbcCatalog catalog = new JdbcCatalog(null, ignored -> database, true);
    catalog.initialize(setting("CATALOG_NAME", "lake"), properties);

    HttpConfiguration jetty = new HttpConfiguration();
    jetty.setSendServerVersion(false);
    jetty.setUriCompliance(UriCompliance.UNSAFE); // the levels of a namespace arrive joined by %1F
    QueuedThreadPool threads = new QueuedThreadPool(32, 4);
    threads.setDaemon(true); // else a port that is taken would leave a process that neither serves nor ends
    Server server = new Server(threads);
    ServerConnector connector = new ServerConnector(server, 1, 1, new HttpConnectionFactory(jetty));
    connector.setHost(setting("CATALOG_HOST", "127.0.0.1"));
    connector.setPort(Integer.parseInt(setting("CATALOG_PORT", "18181")));
    server.addConnector(connector);
    ServletContextHandler context = new ServletContextHandler("/");
    context.getServletHandler().setDecodeAmbiguousURIs(true);
    context.addServlet(new ServletHolder(new RESTCatalogServlet(new Adapter(catalog, storage, vendor))), "/*");
    context.addFilter(
        new Gate(
            setting("CATALOG_CLIENT_ID"),
            setting("CATALOG_CLIENT_SECRET"),
            Long.parseLong(setting("CATALOG_TOKEN_SECONDS", "3600")),
            database),
        "/*",
        EnumSet.of(DispatcherType.REQUEST));
    server.setHandler(new GracefulHandler(context));
    server.setStopTimeout(20_000);
    server.setStopAtShutdown(true);
    server.start();
    log.info("serving {} on {}:{}", warehouse, connector.getHost(), connector.getLocalPort());
    server.join();
  }

  private static String setting(String name) {
    String value = setting(name, "");
    if (value.isEmpty()) {
      System.err.println("the environment variable " + name + " is not set");
      System.exit(2);
    }
    return value;
  }

  private static String setting(String name, String otherwise) {
    return System.getenv().getOrDefault(name, otherwise);
  }

  /** A policy for the files of one table; none where a policy can't tell its location apart from others. */
  private static Optional<String> policy(String warehouse, String location) {
    if (!location.startsWith(warehouse + "/") || !location.matches("s3://[^*?$\"\\\\\\p{Cntrl}]+[^/]")) {
      return Optional.empty();
    }
    String path = location.substring("s3://".length());
    String bucket = path.substring(0, path.indexOf('/'));
    return Optional.of(
        """
        {"Version": "2012-10-17", "Statement": [
          {"Effect": "Allow", "Resource": "arn:aws:s3:::%1$s/*", "Action": ["s3:GetObject", "s3:PutObject",
            "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]},
          {"Effect": "Allow", "Resource": "arn:aws:s3:::%2$s", "Action": "s3:GetBucketLocation"},
          {"Effect": "Allow", "Resource": "arn:aws:s3:::%2$s", "Action": "s3:ListBucket",
            "Condition": {"StringLike": {"s3:prefix": "%3$s/*"}}}]}
        """
            .formatted(path, bucket, path.substring(bucket.length() + 1)));
  }

  /**
   * Connections that are tried before use and never used again for a statement that failed. Iceberg's own pool repeats
   * a statement whose connection broke; a commit that had landed would then find its table moved on and be reported as
   * a conflict, and the client would commit the same files twice.
   */
  private static final class Database extends JdbcClientPool {
    private static final class ClosedConnection extends SQLException {}

    Database(String url, Map<String, String> properties) {
      super(url, properties);
    }

    @Override
    public <R> R run(Action<R, Connection, SQLException> action, boolean retry)
        throws SQLException, InterruptedException {
      return super.run(
          connection -> {
            if (!connection.isValid(5)) {
              throw new ClosedConnection();
            }
            return action.run(connection);
          },
          true);
    }

    @Override
    protected boolean isConnectionException(Exception exception) {
      return exception instanceof ClosedConnection;
    }
  }

  /** The catalog's answers, with credentials for those who ask and the right status for a lost race. */
  private static final class Adapter extends RESTCatalogAdapter {
    private static final Logger LOG = LoggerFactory.getLogger(RestCatalogServer.class);
    private static final String UNIQUE_VIOLATION = "23505";
    private final Map<String, String> storage;
    private final Function<String, Optional<Credentials>> vendor;

    Adapter(Catalog catalog, Map<String, String> storage, Function<String, Optional<Credentials>> vendor) {
      super(catalog);
      this.storage = storage;
      this.vendor = vendor;
    }

    @Override
    public <T extends RESTResponse> T handleRequest(
        Route route,
        Map<String, String> variables,
        HTTPRequest request,
        Class<T> type,
        Consumer<Map<String, String>> headers) {
      try {
        boolean vends =
            EnumSet.of(Route.CREATE_TABLE, Route.LOAD_TABLE, Route.REGISTER_TABLE).contains(route)
                && request.headers().entries("X-Iceberg-Access-Delegation").stream()
                    .anyMatch(header -> header.value().contains("vended-credentials"));
        // Without an ETag the client asks for the table anew each time, and so never keeps old credentials.
        T response = super.handleRequest(route, variables, request, type, vends ? ignored -> {} : headers);
        if (response instanceof ConfigResponse config) {
          ConfigResponse.Builder answer = ConfigResponse.builder();
          storage.forEach(answer::withDefault);
          answer.withEndpoints(
              config.endpoints().stream()
                  .filter(endpoint -> endpoint.path().startsWith("/v1/{prefix}/") && !endpoint.path().contains("/plan"))
                  .toList());
          return castResponse(type, answer.build());
        }
        return vends ? castResponse(type, withCredentials((LoadTableResponse) response)) : response;
      } catch (RuntimeException e) {
        if (e.getCause() instanceof SQLException cause && UNIQUE_VIOLATION.equals(cause.getSQLState())) {
          throw new AlreadyExistsException(e, "Already exists: %s", request.path());
        }
        ErrorResponse.Builder answer = ErrorResponse.builder();
        configureResponseFromException(e, answer);
        if (answer.build().code() < 500) {
          throw e;
        }
        LOG.error("{} {}", request.method(), request.path(), e);
        throw new ServiceFailureException("%s; the catalog's log has more", e);
      }
    }

    private LoadTableResponse withCredentials(LoadTableResponse loaded) {
      LoadTableResponse.Builder answer =
          LoadTableResponse.builder().withTableMetadata(loaded.tableMetadata()).addAllConfig(loaded.config());
      String location = loaded.tableMetadata().location();
      vendor
          .apply(location)
          .map(
              key ->
                  Map.of(
                      "s3.access-key-id", key.accessKeyId(),
                      "s3.secret-access-key", key.secretAccessKey(),
                      "s3.session-token", key.sessionToken(),
                      "s3.session-token-expires-at-ms", Long.toString(key.expiration().toEpochMilli())))
          .ifPresent(
              config ->
                  answer
                      .addAllConfig(config)
                      .addCredential(ImmutableCredential.builder().prefix(location + "/").config(config).build()));
      return answer.build();
    }
  }

  /**
   * Lets pass what carries a token of ours: a JWT (Iceberg's Java client reads its expiry to renew it in time) signed
   * with the client secret, so that it outlives a restart of the server and ends with a change of the secret.
   */
  private static final class Gate extends HttpFilter {
    private static final String EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
    private final String clientId;
    private final String clientSecret;
    private final long tokenSeconds;
    private final Database database;

    Gate(String clientId, String clientSecret, long tokenSeconds, Database database) {
      this.clientId = clientId;
      this.clientSecret = clientSecret;
      this.tokenSeconds = tokenSeconds;
      this.database = database;
    }

    @Override
    protected void doFilter(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
        throws IOException, ServletException {
      switch (request.getMethod() + " " + request.getRequestURI()) {
        case "GET /healthz" -> health(response);
        case "POST /v1/oauth/tokens" -> token(request, response);
        default -> {
          if (!isToken(authorization(request, "Bearer "))) {
            response.setHeader("WWW-Authenticate", "Bearer");
            refuse(response, 401, "NotAuthorizedException", "The bearer token is missing, has expired or is not ours");
            return;
          }
          try {
            chain.doFilter(request, response);
          } catch (JacksonException | IllegalArgumentException e) {
            refuse(response, 400, "BadRequestException", "Malformed request: " + e.getMessage());
          }
        }
      }
    }

    private void health(HttpServletResponse response) throws IOException {
      try {
        database.run(connection -> connection.isValid(5));
        answer(response, 200, "{\"status\": \"ok\"}");
      } catch (SQLException | UncheckedSQLException e) {
        answer(response, 503, "{\"status\": \"the database does not answer\"}");
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    }

    /** RFC 6749 § 4.4, and the token exchange (RFC 8693) by which Iceberg's Java client renews its token. */
    private void token(HttpServletRequest request, HttpServletResponse response) throws IOException {
      String grant = request.getParameter("grant_type");
      if (!"client_credentials".equals(grant) && !EXCHANGE.equals(grant)) {
        answer(response, 400, "{\"error\": \"unsupported_grant_type\"}");
      } else if (!isClient(request) && !(EXCHANGE.equals(grant) && isToken(request.getParameter("subject_token")))) {
        answer(
            response,
            401,
            """
            {"error": "invalid_client", "error_description": "Unknown client, wrong secret or expired token"}""");
      } else {
        String body =
            """
            {"access_token": "%s", "token_type": "bearer", "expires_in": %d, "issued_token_type": "%s"}""";
        long expiry = Instant.now().getEpochSecond() + tokenSeconds;
        String claims = "{\"sub\": \"%s\", \"exp\": %d}".formatted(clientId, expiry);
        String token = sign(base64("{\"alg\": \"HS256\", \"typ\": \"JWT\"}") + "." + base64(claims));
        response.setHeader("Cache-Control", "no-store");
        answer(response, 200, body.formatted(token, tokenSeconds, "urn:ietf:params:oauth:token-type:access_token"));
      }
    }

    private boolean isClient(HttpServletRequest request) {
      String basic = authorization(request, "Basic ");
      String given =
          basic == null
              ? request.getParameter("client_id") + ":" + request.getParameter("client_secret")
              : new String(Base64.getDecoder().decode(basic), StandardCharsets.UTF_8);
      return isEqual(given, clientId + ":" + clientSecret);
    }

    private boolean isToken(String token) {
      if (token == null) {
        return false;
      }
      int end = token.lastIndexOf('.');
      if (end < 0 || !isEqual(token, sign(token.substring(0, end)))) {
        return false;
      }
      String claims = new String(Base64.getUrlDecoder().decode(token.split("\\.")[1]), StandardCharsets.UTF_8);
      return Instant.now().getEpochSecond() < JsonUtil.parse(claims, json -> JsonUtil.getLong("exp", json));
    }

    private String sign(String content) {
      try {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(clientSecret.getBytes(StandardCharsets.UTF_8), "HmacSHA256"));
        return content + "." + base64(mac.doFinal(content.getBytes(StandardCharsets.UTF_8)));
      } catch (GeneralSecurityException e) {
        throw new IllegalStateException(e);
      }
    }

    private static String base64(String text) {
      return base64(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String base64(byte[] bytes) {
      return Base64.getUrlEncoder().withoutPadding().encodeToString(bytes);
    }

    private static boolean isEqual(String given, String expected) {
      return MessageDigest.isEqual(
          given.getBytes(StandardCharsets.UTF_8), expected.getBytes(StandardCharsets.UTF_8));
    }

    private static String authorization(HttpServletRequest request, String scheme) {
      String header = request.getHeader("Authorization");
      boolean fits = header != null && header.regionMatches(true, 0, scheme, 0, scheme.length());
      return fits ? header.substring(scheme.length()).trim() : null;
    }

    private static void refuse(HttpServletResponse response, int status, String type, String message)
        throws IOException {
      answer(
          response,
          status,
          ErrorResponseParser.toJson(
              ErrorResponse.builder().responseCode(status).withType(type).withMessage(message).build()));
    }

    private static void answer(HttpServletResponse response, int status, String json) throws IOException {
      response.setStatus(status);
      response.setContentType("application/json");
      response.getOutputStream().write(json.getBytes(StandardCharsets.UTF_8));
    }
  }
}
