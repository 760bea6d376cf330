"""Filling in the templates of configuration files."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lakehouse.stack import templates


def filled(tmp_path: Path, text: str, **values: str | bool | None) -> Any:
    (tmp_path / "template.yml").write_text(text)
    return yaml.safe_load(templates.render(tmp_path / "template.yml", values))


def test_a_value_is_filled_in_wherever_its_name_stands(tmp_path: Path) -> None:
    text = "address: http://${host}:80\nhosts: [one, '${host}']\n"
    assert filled(tmp_path, text, host="two") == {"address": "http://two:80", "hosts": ["one", "two"]}


def test_a_value_can_not_change_the_structure_around_it(tmp_path: Path) -> None:
    assert filled(tmp_path, "name: ${name}\n", name="x: [1\n- # y") == {"name": "x: [1\n- # y"}


def test_what_stands_alone_keeps_its_kind(tmp_path: Path) -> None:
    assert filled(tmp_path, "tls: ${tls}\n", tls=False) == {"tls": False}


def test_an_entry_of_a_list_that_lacks_a_value_is_left_out_and_its_neighbours_stay(tmp_path: Path) -> None:
    text = "channels:\n- {to: '${mail}', from: me}\n- {hook: '${hook}'}\n"
    assert filled(tmp_path, text, mail=None, hook="h") == {"channels": [{"hook": "h"}]}
    assert filled(tmp_path, text, mail=None, hook=None) == {"channels": []}


def test_the_dollars_of_other_templates_stay_as_they_are(tmp_path: Path) -> None:
    assert filled(tmp_path, "text: '{{ $labels.table }} $1'\n") == {"text": "{{ $labels.table }} $1"}


def test_a_name_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="hots"):
        filled(tmp_path, "address: ${hots}\n", host="two")
