#!/bin/sh
# Fetch the jars of a lock file with Maven, check each against it, and compile the server: build.sh LOCK SOURCE TARGET
set -eu
lock=$1 source=$2 target=$3
mkdir -p "$target/jars" "$target/classes"

# One pom with every locked file and nothing they depend on, so that Maven fetches them side by side.
{
  echo '<project><modelVersion>4.0.0</modelVersion><groupId>lakehouse</groupId><artifactId>rest-catalog</artifactId>'
  echo '<version>1</version><packaging>pom</packaging><dependencies>'
  grep -v '^#' "$lock" | while read -r _ _ coordinates; do
    echo "$coordinates" | awk -F: '{
      print "<dependency><groupId>" $1 "</groupId><artifactId>" $2 "</artifactId><version>" $3 "</version><type>" $4 \
        "</type>" ($5 == "" ? "" : "<classifier>" $5 "</classifier>") \
        "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>"
    }'
  done
  echo '</dependencies></project>'
} > "$target/pom.xml"
mvn --batch-mode --quiet --file "$target/pom.xml" dependency:copy-dependencies -DoutputDirectory="$target/jars"

grep -v '^#' "$lock" | awk '{
  split($3, part, ":")
  print $1 "  " part[2] "-" part[3] (part[5] == "" ? "" : "-" part[5]) "." part[4]
}' > "$target/sha256"
(cd "$target/jars" && sha256sum --check --quiet "$target/sha256")

javac --release 17 -proc:none -cp "$target/jars/*" -d "$target/classes" "$source"
rm "$target"/jars/ecj-*.jar # the compiler for machines without a JDK
