"""The report as a browser shows it."""

import numpy as np
import pytest

from l2o_splat.bench.pictures import HeldOutView
from l2o_splat.splat.report import REPORT_NAME, Report, report_html, write_report
from tests.browser import Page


def report():
    photograph = np.linspace(0, 255, 48 * 1500 * 3).reshape(48, 1500, 3).astype(np.uint8)
    return Report(
        title="<b>holiday</b> & friends",
        lead="PSNR 26.49 dB on held-out photographs, 14,060 Gaussians.",
        command=["l2o", "splat", "/home/a person/photographs of a long holiday by the sea " * 4],
        files={"view.html": "the scene in a browser"},
        pairs=[
            HeldOutView("DSC_0001.jpg", photograph, photograph[::-1], 26.5),
            HeldOutView("masked.jpg", photograph, photograph, None),
        ],
        curve=[(6.0, 24.0), (60.0, 26.5)],
        capture=[("15 of 15 photographs: good", True), ("9 points: weak; more light", False)],
        facts={"rule": "adam-own-scale"},
        next={"Measure it": ["l2o", "eval", "--load-config", "/a b/config.yml"]},
    )


def test_what_the_page_says_is_text_and_not_markup():
    page = report_html(report())
    assert "&lt;b&gt;holiday&lt;/b&gt; &amp; friends" in page and "<b>holiday" not in page
    assert "DSC_0001.jpg, 26.50 dB" in page and "masked.jpg</figcaption>" in page
    assert "l2o eval --load-config &#x27;/a b/config.yml&#x27;" in page
    assert "{{" not in page


@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)])
def test_the_page_fits_its_window_and_shows_its_pictures(tmp_path, width, phone):
    write_report(tmp_path / REPORT_NAME, report())
    with Page(tmp_path / "browser") as page:
        page.open(tmp_path / REPORT_NAME, width, 800, phone)
        page.wait_for("document.title.includes('holiday') && document.readyState == 'complete'")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("[...document.images].forEach(image => image.loading = 'eager')")
        page.wait_for("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.evaluate("document.images.length") == 4
        assert not page.logged()
