from __future__ import annotations

import csv
import itertools
import json
import os
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from splashify_provider.bulk import sources
from splashify_provider.bulk.sources import is_read_from, rows_of
from splashify_provider.exceptions import SplashifyConfigurationError
from tests.conftest import ADA, BEN, number, rows

HEADER = "user_phone_number,agent_email\n"


def both_of(row):
    return {name: row[name] for name in ("user_phone_number", "agent_email")}


@pytest.mark.parametrize(
    "way", ["list", "tuple", "generator", "json", "json with a mark", "jsonl", "csv", "semicolons", "excel", "uri"]
)
def test_a_list_json_text_and_files_mean_the_same(tmp_path, way):
    plan = [{**row, "reason": "whatever; else"} for row in rows(*range(20))]
    path = tmp_path / ("plan.csv" if way in ("csv", "semicolons", "excel") else "plan.jsonl")
    if way in ("csv", "semicolons", "excel"):
        with path.open("w", newline="", encoding="utf-8-sig" if way == "excel" else "utf-8") as stream:
            separator = {"csv": ",", "semicolons": ";", "excel": "\t"}[way]
            writer = csv.DictWriter(stream, plan[0], delimiter=separator)
            writer.writeheader()
            writer.writerows(plan)
    else:
        path.write_text("\n".join(json.dumps(row) for row in plan) + "\n\n")
    given = {
        "list": plan,
        "tuple": tuple(plan),
        "generator": (row for row in plan),
        "json": f" {json.dumps(plan)}\n",
        "json with a mark": "\ufeff" + json.dumps(plan),
        "uri": path.as_uri(),
    }
    assert list(map(both_of, rows_of(given.get(way, str(path))))) == rows(*range(20))


@pytest.mark.parametrize("how", ["path", "storage path", "uri"])
def test_a_path_may_be_given_as_whatever_is_one(tmp_path, how):
    path = tmp_path / "plan.csv"
    path.write_text(f"{HEADER}+{number(1)},{ADA}\n")
    given = {"path": path, "storage path": ObjectStoragePath(f"file://{path}"), "uri": path.as_uri()}[how]
    assert list(rows_of(given)) == rows(1)


def test_other_columns_may_come_twice(tmp_path):
    path = tmp_path / "plan.csv"
    path.write_text(f"note,user_phone_number,agent_email,note\n,+{number(1)},{ADA},\n")
    assert list(map(both_of, rows_of(str(path)))) == rows(1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("phone,agent\n1,2\n", "no column user_phone_number and no column agent_email"),
        ("", "no column"),
        ("user_phone_number,agent_email,Agent_Email \n1,2,3\n", "more than one column agent_email"),
        ("user_phone_number,USER_PHONE_NUMBER,agent_email\n1,2,3\n", "more than one column user_phone_number"),
        (b"user_phone_number,agent_email\n\xff\xfe,x\n", "not UTF-8"),
        (f'{HEADER}+1,{ADA}\n+2,"call back\n+3,{ADA}\n', "is not CSV"),  # an open quote would swallow the rest
        (None, "does not exist"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_says_why_and_what_to_do(tmp_path, content, why):
    path = tmp_path / "plan"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SplashifyConfigurationError, match=why) as raised:
        list(rows_of(str(path)))
    assert "Nothing was sent." in raised.value.reason
    assert raised.value.remedy == "Fix it, then clear this task."


@pytest.mark.parametrize("line", ['{"user', "[" * 50_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_line_that_is_no_json_is_no_row(tmp_path, line):
    path = tmp_path / "plan"
    path.write_text(json.dumps(rows(1)[0]) + "\n" + line + "\n" + json.dumps(rows(2)[0]))
    assert list(rows_of(str(path))) == [*rows(1), None, *rows(2)]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (None, "not NoneType"),
        ("", "neither JSON nor a path"),
        ("None", "neither JSON nor a path"),
        ("x" * 5000, "neither JSON nor a path"),
        (str(rows(1)), "tojson"),
        ("[" * 100_000, "not a JSON list"),
        ('{"user_phone_number": "1"}', "not a JSON list"),
        (rows(1)[0], "a list of rows"),
        (7, "not int"),
        ("a\0b", "can't be read"),
    ],
)
def test_anything_else_is_refused_with_a_hint(given, why):
    with pytest.raises(SplashifyConfigurationError, match=why):
        list(rows_of(given))


class TestBounds:
    @pytest.mark.parametrize("where", ["/dev/zero", "/dev/full", "/dev/stdin", "pipe", "link to a pipe"])
    def test_what_is_no_regular_file_is_not_read(self, tmp_path, where):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link to a pipe").symlink_to(tmp_path / "pipe")
        with pytest.raises(SplashifyConfigurationError, match="not a regular file|is a device or a pipe"):
            list(rows_of(str(tmp_path / where)))

    def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(SplashifyConfigurationError, match="is a directory"):
            list(rows_of(str(tmp_path)))

    @pytest.mark.parametrize("start", ["", HEADER, '{"user_phone_number": "'])
    def test_a_line_without_end_is_given_up(self, tmp_path, start):
        path = tmp_path / "plan"
        path.write_text(start + "9" * 1_000_000)
        with pytest.raises(SplashifyConfigurationError, match="a line of more than 100,000 characters"):
            list(rows_of(str(path)))

    def test_a_file_without_end_is_given_up(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sources, "MOST_CHARACTERS", 10_000)
        path = tmp_path / "plan.csv"
        path.write_text(HEADER + "\n" * 20_000)
        with pytest.raises(SplashifyConfigurationError, match="more than 10,000 characters"):
            list(rows_of(str(path)))

    def test_a_file_is_read_row_by_row(self, tmp_path):
        path = tmp_path / "plan.csv"
        path.write_text(HEADER + f"+{number(1)},{ADA}\n" * 50_000 + "9" * 200_000)
        assert list(itertools.islice(rows_of(str(path)), 50_000)) == rows(1) * 50_000


@pytest.mark.parametrize("way", ["same", "uri", "dots", "link", "path"])
def test_one_file_by_two_names_is_the_same(tmp_path, way):
    path = tmp_path / "plan.csv"
    path.write_text(f"{HEADER}+{number(1)},{ADA}\n")
    (tmp_path / "link").symlink_to(path)
    other = {"uri": path.as_uri(), "dots": f"{tmp_path}/x/../plan.csv", "link": str(tmp_path / "link")}
    assert is_read_from(Path(path) if way == "path" else f" {path}", other.get(way, str(path)))


@pytest.mark.parametrize("given", [rows(1), json.dumps(rows(1)), "/data/plan.csv", "s3://bucket/report.jsonl"])
def test_any_other_source_is_another_one(given):
    assert not is_read_from(given, "/data/report.jsonl")


def test_values_beyond_the_header_are_ignored(tmp_path):
    path = tmp_path / "plan.csv"
    path.write_text(f"{HEADER}+{number(1)},{ADA},{BEN}\n")
    assert list(rows_of(str(path))) == rows(1)


@pytest.mark.parametrize(
    "path", ["+919876543210,ada@example.com;" * 20, "{tmp}/plan.csv/x", "{tmp}/loop", "/proc/self/mem/+919876543210"]
)
def test_a_path_that_is_none_is_a_configuration_error_without_whole_numbers(tmp_path, path):
    (tmp_path / "plan.csv").write_text(HEADER)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SplashifyConfigurationError, match="Nothing was sent") as raised:
        list(rows_of(path.format(tmp=tmp_path)))
    assert "919876543210" not in str(raised.value)


def test_the_same_file_under_another_name_is_known(tmp_path):
    plan, link, other = tmp_path / "plan.csv", tmp_path / "link.csv", tmp_path / "report.jsonl"
    plan.write_text(HEADER)
    os.link(plan, link)
    assert is_read_from(str(plan), str(link))
    assert not is_read_from(str(plan), str(other))
    other.write_text("")
    assert not is_read_from(str(plan), str(other))
    assert not is_read_from(str(tmp_path / "no such file"), str(other))


def test_bytes_are_no_list_of_rows():
    with pytest.raises(SplashifyConfigurationError, match="not bytes"):
        rows_of(b"plan.csv")


class TestReleases:
    @pytest.mark.parametrize("given", [["+1", "+2"], ("+1", "+2"), '["+1", "+2"]', ' \ufeff["+1", "+2"] '])
    def test_a_list_or_its_json_text(self, given):
        assert list(rows_of(given, "releases", ("user_phone_number",))) == ["+1", "+2"]

    @pytest.mark.parametrize("given", ["", "None", "+12025550101", '{"a": 1}', None, 7, b"x", {"a": 1}])
    def test_anything_else_is_refused_by_name(self, given):
        with pytest.raises(SplashifyConfigurationError, match="^(The file of )?releases "):
            list(rows_of(given, "releases", ("user_phone_number",)))


def test_who_is_next_in_line_may_stand_in_a_column_but_not_in_two(tmp_path):
    path = tmp_path / "plan.csv"
    path.write_text("user_phone_number;agent_email;Fallback_Agents\n1;a;b, c\n")
    assert list(rows_of(str(path))) == [{"user_phone_number": "1", "agent_email": "a", "fallback_agents": "b, c"}]
    path.write_text("user_phone_number,agent_email,fallback_agents,fallback_agents\n1,a,b,c\n")
    with pytest.raises(SplashifyConfigurationError, match="more than one column fallback_agents"):
        list(rows_of(str(path)))
