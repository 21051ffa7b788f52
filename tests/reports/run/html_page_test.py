"""Pages contain the given content, with all text escaped."""

import base64
import html.parser

from ris_jax.reports.run import html_page

HOSTILE = "<script>alert('x')</script>&\"'><img src=http://x/y.png onerror=z>"


class _Reader(html.parser.HTMLParser):
    """Parser that collects tags, attributes and text, and checks the nesting of tags."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(source)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_all_text_is_escaped():
    body = "".join(
        [
            html_page.paragraph(HOSTILE, HOSTILE),
            html_page.preformatted(HOSTILE),
            html_page.listed([HOSTILE, HOSTILE], "warning"),
            html_page.table([HOSTILE, "b"], [(HOSTILE, 0.5)]),
            html_page.image(b"\x89PNG", HOSTILE),
            html_page.folded(HOSTILE, html_page.paragraph(HOSTILE)),
        ]
    )
    read = _Reader(html_page.render(HOSTILE, [(HOSTILE, body), ("left out", "")]))
    assert "script" not in read.tags
    assert read.tags.count("img") == 1
    assert read.texts.count(HOSTILE) == 11
    assert "left out" not in read.texts
    assert ("alt", HOSTILE) in read.attributes
    assert not [name for name, _ in read.attributes if name in ("onerror", "href")]


def test_images_are_embedded_and_nothing_is_fetched():
    read = _Reader(html_page.render("a", [("b", html_page.image(b"\x89PNG\x00\xff", "c"))]))
    (source,) = [value for name, value in read.attributes if name == "src"]
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == b"\x89PNG\x00\xff"
    (policy,) = [v for n, v in read.attributes if n == "content" and v.startswith("default-src")]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_numbers_are_formatted_as_in_other_tables():
    read = _Reader(html_page.table(["x"], [(0.123456,), (float("nan"),), (None,), (7,)]))
    assert read.texts == ["x", "0.1235", "-", "-", "7"]
