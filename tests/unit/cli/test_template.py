"""The template language of --format."""

from __future__ import annotations

from typing import Any

import pytest

from cove.cli.template import TemplateError, parse, render

VALUE: dict[str, Any] = {
    "Name": "/web",
    "State": {"Running": True, "Pid": 7},
    "Ports": {"80/tcp": [{"HostPort": "8080"}], "443/tcp": None},
    "Args": ["a", "b"],
    "Empty": [],
    "Label": lambda name: f"<{name}>",
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{.Name}}", "/web"),
        ("{{.State.Running}} {{.State.Pid}}", "true 7"),
        ("{{.State.Absent}}", "<no value>"),
        ("{{json .State}}", '{"Pid":7,"Running":true}'),
        ("{{.Args}}{{.State}}", "[a b]map[Pid:7 Running:true]"),
        ('{{join .Args ","}}', "a,b"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{range $p, $b := .Ports}}{{$p}}={{len $b}};{{end}}", None),
        ("{{range .Args}}[{{.}}]{{end}}", "[a][b]"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if eq .State.Pid 7 8}}yes{{else}}no{{end}}", "yes"),
        ("{{if not .State.Running}}a{{else if gt .State.Pid 5}}b{{else}}c{{end}}", "b"),
        ("{{with .State}}{{.Pid}} {{$.Name}}{{end}}", "7 /web"),
        ('{{.Name | upper | printf "%s!"}}', "/WEB!"),
        ('{{printf "%-5s|%05d|%q" "ab" 42 "x"}}', 'ab   |00042|"x"'),
        ("a {{- 1 -}} b", "a1b"),
        ('{{$x := "v"}}{{$x}}{{/* unseen */}}', "v"),
        ('{{.Label "k"}}', "<k>"),
        ("{{println .Name}}", "/web\n"),
        ('{{if and .Args (or .Empty "z")}}t{{end}}', "t"),
        ('{{slice .Name 1}}{{"}}"}}', "web}}"),
    ],
)
def test_templates(source: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(TemplateError):
            render(parse(source), VALUE)
    else:
        assert render(parse(source), VALUE) == text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{.Naem}}", r"did you mean \.Name\?"),
        ("{{.Name", "without its"),
        ("{{if .Name}}x", "without its"),
        ("{{end}}", "nothing is open"),
        ("{{nonsense .Name}}", "'nonsense' does not exist"),
        ("{{.Name.Sub}}", "has no fields"),
        ("{{ ! }}", "unreadable"),
    ],
)
def test_mistakes(source: str, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        render(parse(source), VALUE)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{{html .}}", "a &lt;b&gt; &amp; &#34;c&#34;"),
        ("{{js .}}", 'a \\u003Cb\\u003E \\u0026 \\"c\\"'),
        ("{{urlquery .}}", "a+%3Cb%3E+%26+%22c%22"),
    ],
)
def test_escapes_for_other_languages(form: str, expected: str) -> None:
    assert render(parse(form), 'a <b> & "c"') == expected
