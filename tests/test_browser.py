"""What a person does with the page, in a real Chromium over a real `affect serve`.

Each flow asserts on what is seen, and that the console stays silent, no script fails and nothing
but this machine is asked. Pictures of every flow are left in .work/screens to be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra ui is not installed")

from pipelines import ledger
from pipelines.take import Take
from tests.browser import ROOT, Server, Watched, browsing, screenshot, serving, watched

pytestmark = pytest.mark.ui
MADE = 90_000  # ms for a take on a busy machine; 2 to 20 s on a free one
PHONE = {"width": 375, "height": 812}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as one:
        yield one


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("browser") / "out") as one:
        yield one


@pytest.fixture
def opened(browser: Any, server: Server, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A fresh page; after the flow it is photographed and must have had no fault."""
    with watched(browser, server) as one:
        yield one
        screenshot(one.page, request.node.name.removeprefix("test_")[:60])
        assert one.faults == []


@pytest.fixture
def page(opened: Watched) -> Any:
    return opened.page


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def unfold(page: Any, title: str) -> None:
    """Open what is folded under a title in the panel or the tab that is shown, as a person does.

    What is folded is drawn when it is opened, and gradio then sets its fields once more: what a
    script types in the first tenths of a second is lost.
    """
    page.get_by_role("button", name=re.compile(f"^{title}")).locator("visible=true").first.click()
    page.wait_for_timeout(700)


def fill(page: Any, label: str, value: object) -> None:
    """Type a number or words into the field of this label in the tab that is shown."""
    field = page.get_by_label(label, exact=True).locator("visible=true").first
    field.fill(str(value))
    field.press("Tab")


def done(page: Any, name: str) -> str:
    """Wait until a tab says that it is done; what it says."""
    told = page.locator(f"#told-{name}")
    told.get_by_text(re.compile(r"^(Done|Stopped|\d+ pictures)")).wait_for(timeout=MADE)
    return str(told.inner_text())


def press_make(page: Any, name: str) -> Any:
    """Press Make; what the tab says from then on, without what it said before."""
    told = page.locator(f"#told-{name}")
    told.locator(".told").evaluate("one => one.dataset.old = 'yes'")
    page.click(f"#make-{name}")
    return told.locator(".told:not([data-old])")


def make(page: Any, name: str) -> str:
    told = press_make(page, name)
    finished = told.filter(has_text=re.compile(r"^\s*(Done|\d+ pictures)"))
    wrong = told.locator(".wrong")
    finished.or_(wrong).first.wait_for(timeout=MADE)
    assert wrong.count() == 0, wrong.inner_text()
    return str(told.inner_text())


def picture_is_seen(page: Any, where: str) -> None:
    """A picture has arrived and has pixels."""
    page.wait_for_function(
        "where => [...document.querySelectorAll(where + ' img')].some((one) => one.complete &&"
        " one.naturalWidth > 30)", arg=where,
    )  # fmt: skip


def emotion(page: Any) -> str:
    return str(page.locator("#emotion textarea").input_value())


def wait_for_emotion(page: Any, test: Callable[[str], Any]) -> str:
    """The text of the panel, as soon as it is as wanted."""
    for _ in range(100):
        if test(emotion(page)):
            break
        page.wait_for_timeout(100)
    assert test(emotion(page)), emotion(page)
    return emotion(page)


def script(name: str) -> str:
    """What is asked of the page itself."""
    return (ROOT / "tests" / "data" / f"{name}.js").read_text()


def takes(server: Server) -> list[dict[str, Any]]:
    return [line for line in ledger.read(server.out) if line["status"] == "done"]


# Pictures ----------------------------------------------------------------------------------------


def test_a_picture_is_made_and_read(page: Any, server: Server) -> None:
    page.locator("#prompt-image textarea, #prompt-image input").first.fill("a lighthouse")
    told = make(page, "image")
    picture_is_seen(page, "#picture-image")
    card = page.locator("#card-image").inner_text()
    assert "awe" in card
    assert "asked" in card
    assert re.search(r"±", card), "no uncertainty on the card"
    assert "Done" in told
    last = takes(server)[-1]
    assert last["request"]["prompt"] == "a lighthouse"
    assert Take.read(server.out / last["path"]).sha256 == last["sha256"]


def test_stop_ends_a_picture(page: Any, server: Server) -> None:
    before = len(takes(server))
    unfold(page, "Settings")
    steps = page.locator("input[aria-label*='Steps']").locator("visible=true").first
    steps.fill("150")
    steps.press("Tab")
    assert page.locator("#stop-image").is_disabled()
    page.click("#make-image")
    page.locator("#told-image").get_by_text(re.compile(r"\d+ of 150")).wait_for(timeout=MADE)
    page.click("#stop-image")
    page.locator("#told-image").get_by_text(re.compile("^Stopped")).wait_for(timeout=10_000)
    page.wait_for_function("document.querySelector('#stop-image').disabled")
    assert len(takes(server)) == before
    assert not list(server.out.rglob(".tmp-*"))


def test_a_take_is_made_again_with_another_emotion(page: Any, server: Server) -> None:
    make(page, "image")
    first = takes(server)[-1]
    page.locator("#emotion textarea").fill("sadness 0.9")
    page.locator("#said").get_by_text("sadness").wait_for()
    page.get_by_role("button", name="Remake with this emotion").locator("visible=true").click()
    page.locator("#card-image").get_by_text("sadness 0.9").wait_for(timeout=MADE)
    last = takes(server)[-1]
    assert last["request"]["seed"] == first["request"]["seed"]
    assert "sadness" in page.locator("#card-image").inner_text()


def test_of_several_pictures_the_card_is_of_the_one_that_is_shown(
    page: Any, server: Server
) -> None:
    unfold(page, "Settings")
    for label, value in (("How many", "3"), ("Steps", "3")):
        field = page.locator(f"input[aria-label*='{label}']").locator("visible=true").first
        field.fill(value)
        field.press("Tab")
    page.locator("#seed-image").locator("input, textarea").first.fill("5")
    make(page, "image")
    card = page.locator("#card-image")
    keys = [line["key"][:16] for line in takes(server)[-3:]]

    def large() -> str:
        """Name of the picture that is shown large."""
        shown = page.locator("#picture-image .preview img").first
        return str(shown.get_attribute("src")).rpartition("/")[2]

    card.get_by_text(keys[2]).wait_for()
    assert large().startswith(keys[2][:8])
    page.locator("#picture-image .thumbnails button").first.click()
    card.get_by_text(keys[0]).wait_for()
    assert large().startswith(keys[0][:8])
    assert "seed 5" in card.inner_text()
    page.click("#like-image")
    page.locator("#told-image").get_by_text("A favourite").wait_for()
    assert [line["key"][:16] for line in ledger.read(server.out)][-1] == keys[0]


def test_what_is_refused_is_told_and_make_is_live_again(page: Any, opened: Watched) -> None:
    """A number that is out of range, and a queue that is full: gradio says neither in the tab."""
    unfold(page, "Settings")
    fill(page, "Width", -8)
    wrong = press_make(page, "image").locator(".wrong")
    wrong.get_by_text("width: allowed 0 to 4096, received -8").wait_for(timeout=MADE)
    fill(page, "Width", 0)

    def full(route: Any) -> None:
        asked = route.request.post_data or ""
        busy = {"status": 503, "json": {"detail": "Queue is full."}}
        route.fulfill(**busy) if "a mountain lake" in asked else route.continue_()

    page.route("**/queue/join*", full)
    wrong = press_make(page, "image").locator(".wrong")
    wrong.get_by_text("refused").wait_for(timeout=MADE)
    page.wait_for_function("!document.querySelector('#make-image').disabled")
    assert page.locator("#stop-image").is_disabled()
    page.unroute("**/queue/join*")
    make(page, "image")
    opened.faults[:] = [one for one in opened.faults if "503" not in one]  # asked for above


def test_a_grid_becomes_a_sheet(page: Any, server: Server) -> None:
    tab(page, "Grid")
    levels = page.locator("input[aria-label*='Levels']").locator("visible=true").first
    levels.fill("1")
    levels.press("Tab")
    assert "pictures" in make(page, "grid")
    assert list(server.out.rglob("*grid*.png")) or list(server.out.rglob("*sheet*.png"))


# The panel ---------------------------------------------------------------------------------------


def test_the_pad_is_dragged(page: Any) -> None:
    box = page.locator("#pad .disc").bounding_box()
    x, y, r = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"] / 2
    puck = page.locator("#pad .puck").bounding_box()
    page.mouse.move(puck["x"] + puck["width"] / 2, puck["y"] + puck["height"] / 2)
    page.mouse.down()
    for k in range(1, 9):  # to displeasure, lively: where fear and anger are
        page.mouse.move(x - 0.62 * r * k / 8, y - 0.6 * r * k / 8)
        page.wait_for_timeout(30)
    page.mouse.up()
    text = wait_for_emotion(page, lambda one: "fear" in one or "anger" in one)
    page.locator("#said").get_by_text(re.compile("fear|anger")).wait_for()
    puck = page.locator("#pad .puck").bounding_box()
    assert puck["x"] < x - 0.4 * r, "the puck did not stay where it was put"
    assert "awe" not in text
    box = page.locator("#pad .name[data-name=happiness] circle").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    wait_for_emotion(page, lambda one: one.startswith("happiness"))


def test_sliders_share_the_whole(page: Any) -> None:
    unfold(page, "Mixture")
    slider = page.locator("#mixture input[data-name=fear]")
    slider.wait_for()
    slider.fill("1")
    wait_for_emotion(page, lambda one: one.startswith("fear 1") or one == "fear")
    page.locator("#mixture input[data-name=anger]").fill("0.5")
    text = wait_for_emotion(page, lambda one: "anger" in one)
    assert "fear 0.5" in text
    page.wait_for_timeout(300)
    assert float(page.locator("#mixture input[data-name=fear]").input_value()) <= 0.5


def test_a_sentence_is_read_and_a_typing_error_told(page: Any) -> None:
    box = page.locator("#pad .puck").bounding_box()
    page.locator("#emotion textarea").fill('"I just lost my dog"')
    page.locator("#said").get_by_text(re.compile("sadness")).wait_for()
    page.wait_for_timeout(300)
    assert page.locator("#pad .puck").bounding_box()["x"] < box["x"], "the puck stayed"
    page.locator("#emotion textarea").fill("hapiness .8")
    page.locator("#said [role=alert]").get_by_text("happiness").wait_for()
    page.locator("#emotion textarea").fill("<img src=x onerror=alert(1)> .8")
    page.locator("#said [role=alert]").wait_for()
    assert page.locator("#said img").count() == 0


def test_moments_are_added_dragged_and_deleted(page: Any) -> None:
    page.locator("#emotion textarea").fill("0s contentment .6; 8s fear .9")
    page.locator("#said").get_by_text("8 s fear").wait_for()
    unfold(page, "Over time")
    line = page.locator("#timeline svg")
    line.wait_for()
    box = page.locator("#timeline .field").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.9)
    text = wait_for_emotion(page, lambda one: one.count(";") == 2)
    assert re.search(r"; (3\.9|4|4\.1)s ", text)
    moment = page.locator("#timeline .key").nth(1).locator("circle").last
    at = moment.bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.down()
    for k in range(1, 6):
        page.mouse.move(at["x"] + 0.05 * k * box["width"], at["y"] + 5)
        page.wait_for_timeout(30)
    page.mouse.up()
    wait_for_emotion(page, lambda one: re.search(r"; (5\.[5-9]|6(\.[0-3])?)s ", one))
    page.keyboard.press("Delete")
    wait_for_emotion(page, lambda one: one.count(";") == 1)
    assert page.locator("#timeline .key").count() == 2


def test_everything_by_keyboard(page: Any) -> None:
    """Tab reaches the pad and Make in the order they are seen; arrows move, Enter makes."""
    page.locator("#emotion textarea").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('puck')"):
            break
    assert page.evaluate("document.activeElement.classList.contains('puck')")
    ring = page.evaluate(
        "(() => { const s = getComputedStyle(document.activeElement);"
        " return s.outlineStyle + s.outlineWidth + s.stroke + s.strokeWidth; })()"
    )
    page.locator("#emotion textarea").focus()
    plain = page.evaluate(
        "(() => { const s = getComputedStyle(document.querySelector('.puck'));"
        " return s.outlineStyle + s.outlineWidth + s.stroke + s.strokeWidth; })()"
    )
    assert ring != plain, "nothing shows that the puck has the keyboard"
    page.locator("#pad .puck").focus()
    before = emotion(page)
    for _ in range(6):
        page.keyboard.press("Shift+ArrowLeft")
        page.wait_for_timeout(60)
    wait_for_emotion(page, lambda one: one != before)
    assert page.locator("#pad .puck").get_attribute("aria-valuetext")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "make-image":
            break
    assert page.evaluate("document.activeElement.id") == "make-image"
    page.keyboard.press("Enter")
    assert "Done" in done(page, "image")


# Faces, voices, music, films ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eileen Collins, NASA, in the public domain."""
    data = pytest.importorskip("skimage.data", reason="scikit-image brings the real face")
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


def test_a_real_face_needs_a_yes(page: Any, server: Server, photo: Path) -> None:
    pytest.importorskip("mediapipe", reason="the extra portrait is not installed")
    before = len(takes(server))
    tab(page, "Portrait")
    shown = page.get_by_role("tabpanel").locator("visible=true").first
    clear = shown.get_by_role("button", name=re.compile("Clear|Remove")).first
    clear.click()
    shown.locator("input[type=file]").first.set_input_files(photo)
    picture_is_seen(page, "[role=tabpanel]")
    page.wait_for_timeout(500)
    press_make(page, "portrait").locator(".wrong").get_by_text("consent").wait_for(timeout=MADE)
    assert len(takes(server)) == before
    page.locator("#agreed-portrait input").check()
    make(page, "portrait")
    last = takes(server)[-1]
    assert "consent" in last["request"]["inputs"]
    assert page.locator("#card-portrait .card").count() == 1


def test_music_is_made(page: Any, server: Server) -> None:
    tab(page, "Music")
    make(page, "music")
    last = takes(server)[-1]
    assert last["request"]["modality"] == "music"
    assert page.locator("#card-music .card").count() == 1
    shown = page.get_by_role("tabpanel").locator("visible=true").first
    shown.locator("audio, [aria-label*='aveform'], #waveform").first.wait_for(state="attached")


def test_a_voice_is_recoloured(page: Any, server: Server) -> None:
    tab(page, "Voice")
    make(page, "voice")
    assert takes(server)[-1]["request"]["modality"] == "voice"
    assert page.locator("#card-voice .card").count() == 1


SCENE = """title = "Two moments"
emotion = "0s contentment .7; 2s fear .8"
width = 128
height = 128
seed = 3
music = false

[[shots]]
prompt = "a calm sea"
still = "tilt"
seconds = 1

[[shots]]
prompt = "a storm"
still = "light"
seconds = 1
"""


def test_a_film_of_two_short_scenes(page: Any, server: Server) -> None:
    tab(page, "Film")
    unfold(page, "The whole scene")
    code = page.locator(".cm-content").locator("visible=true").first
    code.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(SCENE)
    make(page, "film")
    last = takes(server)[-1]
    assert last["request"]["modality"] == "film"
    film = page.locator("#film-film video, [id^=film] video").locator("visible=true").first
    film.wait_for(state="attached")
    page.wait_for_function(
        "[...document.querySelectorAll('video')].some((one) => one.duration > 1.8)"
    )


def test_shots_are_rows_of_the_scene_s_text(page: Any) -> None:
    tab(page, "Film")
    unfold(page, "The whole scene")
    text = page.locator("#scene .cm-content")
    fill(page, "Shot 2: what is seen", "a ship in fog")
    text.get_by_text('prompt = "a ship in fog"').wait_for()
    assert text.get_by_text("waves against a cliff").count() == 0
    page.get_by_role("button", name="Add a shot").click()
    page.keyboard.type("a red bird")  # what a new shot says is chosen, to be typed over
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelectorAll('#shots .list .shot').length === 5")
    page.get_by_label("Shot 5: earlier").click()
    page.wait_for_function("document.activeElement.dataset.at === '3.up'")
    page.get_by_label("Shot 1: remove").click()
    text.get_by_text("the sea in the evening").wait_for(state="detached")
    fill(page, "Shot 1: seconds", "999")
    page.locator("#shots .why").get_by_text("0.25 to 300").wait_for()
    text.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(SCENE)
    page.wait_for_function("document.querySelectorAll('#shots .list .shot').length === 2")
    assert page.get_by_label("Shot 2: what is seen").input_value() == "a storm"


# The gallery -------------------------------------------------------------------------------------


def test_the_gallery_finds_likes_deletes_and_brings_back(page: Any, server: Server) -> None:
    for words in ("a green hill", "a dark wood"):
        page.locator("#prompt-image textarea, #prompt-image input").first.fill(words)
        make(page, "image")
        page.locator("#told-image").get_by_text("Done").wait_for()
    count = len({line["request"]["seed"] for line in takes(server)})
    tab(page, "Gallery")
    thumbs = page.locator("#gallery button img, #gallery .thumbnail-item img")
    thumbs.first.wait_for()
    assert count >= 2
    fill(page, "Words", "dark wood")
    page.get_by_label("Words").locator("visible=true").press("Enter")
    page.locator("#found").get_by_text(re.compile(r"^1 take")).wait_for()
    thumbs.first.click()
    page.locator("#card-gallery .card").wait_for()
    page.get_by_role("button", name=re.compile("Favourite$")).locator("visible=true").click()
    page.locator("#gallery").get_by_text("★").first.wait_for()
    page.get_by_label("Favourites only").check()
    page.locator("#found").get_by_text(re.compile(r"^1 take")).wait_for()
    page.click("#delete")
    page.locator("#found").get_by_text(re.compile(r"^(0|No) take")).wait_for()
    page.click("#undo")
    page.locator("#found").get_by_text(re.compile(r"^1 take")).wait_for()


OWNED = "document.title='owned'"
HOSTILE = (
    f'<img src=x onerror="{OWNED}"><script>{OWNED}</script></p></div><svg onload="{OWNED}">'
    f"' onmouseover={OWNED} \x1b[31m\x07\u202e {{{{7*7}}}} ${{{OWNED}}} "
)


def test_a_hostile_take_is_only_text(page: Any, server: Server) -> None:
    """A file from elsewhere with a prompt, a reader and words made to be run; 64 kB of them."""
    from PIL import Image

    from adapters.emotion import CORE, EmotionTimeline
    from pipelines.take import Request, write_take

    flat = dict.fromkeys(CORE, 0.05)
    reading = {
        "critic": {"reader": HOSTILE, "intensities": {**flat, "fear": 0.7}},
        "reader": {"reader": HOSTILE, "intensities": {**flat, "awe": 0.6}},
    }
    prompt = ("zebra " + HOSTILE * 320)[:65_000]
    assert len(prompt) > 64_000
    request = Request("image", prompt, EmotionTimeline.parse("fear .7"), 1, "image-tiny")
    write_take(request, Image.new("RGB", (64, 64), "teal"), server.out, reading=reading)
    tab(page, "Gallery")
    page.get_by_label("Words").locator("visible=true").fill("zebra")
    page.get_by_label("Words").locator("visible=true").press("Enter")
    found = page.locator("#found").get_by_text(re.compile(r"^1 take"))
    found.wait_for(timeout=MADE)  # the server may still be making what another flow asked for
    page.locator("#gallery button img, #gallery .thumbnail-item img").first.click()
    page.locator("#card-gallery .card").wait_for(timeout=MADE)
    page.wait_for_timeout(500)
    assert page.title() == "Affect Studio"
    assert page.locator("#card-gallery").locator("script, img, svg[onload]").count() == 0
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() &&"
        " one.getBoundingClientRect().right > 1330).map((one) => one.id || one.className)"
    )
    assert wide == [], "a long word made the page wide"


# Looks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_s_width_holds_every_tab(browser: Any, server: Server, theme: str) -> None:
    with watched(browser, server, **PHONE, color_scheme=theme, has_touch=True) as one:
        page = one.page
        names = [tab.inner_text() for tab in page.get_by_role("tab").all()]
        assert {"Image", "Gallery", "Film"} <= set(names)
        for name in names:
            tab(page, name)
            page.wait_for_timeout(250)
            wide = page.evaluate("document.scrollingElement.scrollWidth")
            assert wide <= 375 + 1, f"{name} is {wide} px wide"
            if name in ("Image", "Portrait", "Gallery"):
                screenshot(page, f"phone-{theme}-{name.lower()}")
        assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
        assert one.faults == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_can_be_read_in_both_lights(browser: Any, server: Server, theme: str) -> None:
    """Contrast of the text of every tab against what is behind it: 4.5, large 3 (WCAG 2.2 AA)."""
    with watched(browser, server, color_scheme=theme) as one:
        low: list[str] = []
        for name in [tab.inner_text() for tab in one.page.get_by_role("tab").all()]:
            tab(one.page, name)
            one.page.wait_for_timeout(250)
            low += [f"{name}: {text}" for text in one.page.evaluate(script("contrast"))]
            screenshot(one.page, f"{theme}-{name.lower()}")
        assert low == []
        assert one.faults == []


def test_everything_has_a_name_for_a_screen_reader(page: Any) -> None:
    """Buttons, fields, sliders and pictures of every tab say what they are."""
    nameless: list[str] = []
    for name in [tab.inner_text() for tab in page.get_by_role("tab").all()]:
        tab(page, name)
        page.wait_for_timeout(250)
        nameless += [f"{name}: {one}" for one in page.evaluate(script("nameless"))]
    assert nameless == []
