"""The page of a Space in headless Chromium, served by its own `app.py` where this package cannot be imported."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import without_package
from fake_hub import fake_hub
from films import TITLES, film_recommender
from PIL import Image

from hf_rec.hub import save_recommender
from hf_rec.serving.vectors import similar_items
from hf_rec.space import write_space

pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys
from space_screenshots import SIZES, Page, chromium, installed_browser, main, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not installed_browser(), reason="needs chromium and chromium-driver"),
]
SHOWN = {item: title or item for item, title in TITLES.items()}
START = (
    f"import runpy, sys; sys.path.insert(0, {str(Path(without_package.__file__).parent)!r}); import without_package; "
    "sys.meta_path.insert(0, without_package.Blocker()); runpy.run_path('app.py', run_name='__main__')"
)
HEADING = "#heading h2"


@pytest.fixture(scope="module")
def recommend():
    return film_recommender()


@pytest.fixture(scope="module")
def url(recommend, tmp_path_factory):
    space = tmp_path_factory.mktemp("work") / "space"
    write_space(space, recommend, "Films to try")
    with served(space, "-c", START) as address:
        yield address


def test_the_script_takes_a_picture_of_each_size(recommend, tmp_path, monkeypatch):
    write_space(tmp_path / "space", recommend, "Films to try")
    options = ["--space", str(tmp_path / "space"), "--search", "matrix", "aliens", "--output_dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["space_screenshots.py", *options])
    main()
    sizes = {device: Image.open(tmp_path / f"space-{device}.png").size for device in SIZES}
    assert sizes == SIZES


def test_a_recommender_of_the_hub_is_opened_from_there(recommend, tmp_path, monkeypatch):
    saved = tmp_path / "saved"
    save_recommender(saved, recommend.model, recommend.tokenizer)
    write_space(tmp_path / "space", recommend, "Films of the Hub", repo_id="user/films")
    with fake_hub() as hub:
        hub.private["user/films"] = False
        hub.add_commit("user/films", "Upload recommender", {file.name: file.read_bytes() for file in saved.iterdir()})
        for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        with served(tmp_path / "space", "-c", START) as url, chromium(*SIZES["phone"]) as browser:
            page = Page(browser, url)
            assert browser.title == "Films of the Hub"
            assert page.titles("ranked") == listed(recommend, [])


@pytest.fixture(params=SIZES)
def page(request, url):
    with chromium(*SIZES[request.param], dark=request.param == "phone") as browser:
        yield Page(browser, url)


def listed(recommend, history, **options) -> list[str]:
    """The titles that the pipeline recommends."""
    return [SHOWN[entry["item_id"]] for entry in recommend([history], top_k=10, **options)[0]]


def shows(page: Page, titles: list[str]) -> None:
    """Waits until the list has these titles."""
    page.until(lambda: page.titles("ranked") == titles, f"{titles} but {page.titles('ranked')}")


def build(page: Page, items: dict[str, str]) -> None:
    """Add the first item that each search finds."""
    for place, text in enumerate(items):
        added = [SHOWN[item] for item in items.values()][: place + 1]
        assert page.add(text) == added[::-1]


def test_a_person_builds_a_history_and_the_list_follows(page, recommend):
    assert page.browser.title == "Films to try"
    assert page.texts(HEADING) == ["Recommended to someone new"]
    assert page.titles("ranked") == listed(recommend, [])
    build(page, {"matrix": "f7", "aliens": "f9", "amelie": "f2"})
    shows(page, listed(recommend, ["f7", "f9", "f2"]))
    assert page.texts(HEADING) == ["Recommended after 3 items"]
    before = page.titles("ranked")
    assert len(before) == 10 and not {*before} & {SHOWN[item] for item in ("f7", "f9", "f2")}
    assert page.press(f"Remove {SHOWN['f9']}") == [SHOWN["f2"], SHOWN["f7"]]
    shows(page, listed(recommend, ["f7", "f2"]))
    assert page.titles("ranked") != before
    first = page.titles("ranked")[0]
    assert page.press(f"Add {first}")[0] == first
    assert page.press("Start again with no items") == []
    shows(page, listed(recommend, []))


def test_reasons_are_those_of_the_pipeline(page, recommend):
    build(page, {"matrix": "f7", "aliens": "f9"})
    shows(page, listed(recommend, ["f7", "f9"]))
    entries = recommend([["f7", "f9"]], top_k=10, explain=True)[0]
    reasons = [[SHOWN[reason["item_id"]] for reason in entry["because"]] for entry in entries]
    assert page.texts("#ranked .because q") == [title for row in reasons for title in row]
    assert len(page.texts("#ranked .because q")) > 5


def test_genres_and_variety_are_rules_of_the_list(page, recommend):
    build(page, {"matrix": "f7"})
    if not page.all("#variety"):
        page.all("#rules button")[0].click()  # on a phone the rules are closed
        page.until(lambda: page.all("#variety"), "the rules")
    where = {"where": {"column": "genres", "any_of": ["Drama"]}}
    rule_of = {"More of these": {"rule": "boost", "factor": 5}, "Only these": {"rule": "allow"}}
    choose(page, "Drama")
    for choice in (*rule_of, "None of these"):
        choose(page, choice)
        rule = rule_of.get(choice, {"rule": "deny"}) | where
        shows(page, listed(recommend, ["f7"], extra_rules=[rule]))
    kinds = page.texts("#ranked > div > div > ol > li > .about > .kinds")
    assert kinds and not any("Drama" in kind for kind in kinds)
    choose(page, "Drama")
    shows(page, listed(recommend, ["f7"]))
    slider = page.all("#variety input[type=range]")[0]
    for _ in range(5):
        slider.send_keys(Keys.ARROW_RIGHT)
    varied = listed(
        recommend, ["f7"], extra_rules=[{"rule": "variety", "method": "mmr", "weight": 0.5, "over": "genres"}]
    )
    shows(page, varied)
    assert varied != listed(recommend, ["f7"]) and page.texts("#ranked .moved")


def choose(page: Page, name: str) -> None:
    """Click on a box or a choice of the rules."""
    (label,) = [label for label in page.all("#rules label") if label.text.strip() == name]
    label.click()


def test_similar_items_open_and_close(page, recommend):
    build(page, {"matrix": "f7"})
    title, similar = SHOWN["f7"], [SHOWN[entry["item_id"]] for entry in similar_items(recommend, "f7", 5)]
    page.button(f"Items similar to {title}").click()
    page.until(lambda: page.texts("#history .nearest .title") == similar, f"{similar}")
    assert page.press(f"Add {similar[0]}") == [similar[0], title]
    page.button(f"Items similar to {title}").click()
    page.until(lambda: not page.all(".nearest"), "no similar items")
    page.until(lambda: not page.all("[aria-busy]"), "that all is done")


def test_the_keyboard_is_enough(page, recommend):
    page.type("matrix")
    press(page, Keys.ENTER)  # adds the first found item
    page.until(lambda: page.titles("history") == [SHOWN["f7"]], "the history")
    shows(page, listed(recommend, ["f7"]))
    page.type("alien")
    press(page, Keys.TAB, Keys.TAB)  # to the button of the second found item
    assert focused(page) == f"Add {SHOWN['f9']}"
    press(page, Keys.ENTER)
    page.until(lambda: page.titles("history") == [SHOWN["f9"], SHOWN["f7"]], "two items")
    in_search = "return document.activeElement.closest('#search') !== null"
    if not page.browser.execute_script("return matchMedia('(pointer: coarse)').matches"):
        page.until(lambda: page.browser.execute_script(in_search), "the focus in the search")
    shows(page, listed(recommend, ["f7", "f9"]))
    page.browser.execute_script("document.querySelector('#history .remove').focus()")
    press(page, Keys.ENTER)
    page.until(lambda: page.titles("history") == [SHOWN["f7"]], "one item")
    press(page, Keys.ENTER)  # the focus is on the button of the next item
    page.until(lambda: not page.titles("history"), "no items")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.browser.switch_to.active_element.send_keys(key)


def focused(page: Page) -> str:
    """What a screen reader calls the element with the focus."""
    return page.browser.execute_script("return document.activeElement.ariaLabel")


def test_titles_with_code_in_them_are_texts(page):
    build(page, {"img src": "f3", "quoted": "f4"})
    assert page.browser.title == "Films to try" and not page.all("#history img, #ranked img")


def test_nothing_is_wider_than_the_screen_and_every_control_has_a_name(page):
    build(page, {"wars of": "f1", "quoted": "f4"})
    page.all("#ranked .similar")[0].click()
    page.until(lambda: page.texts(".nearest .title"), "similar items")
    width, screen = page.browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= screen
    controls = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "textbox", "slider", "checkbox", "radio", "spinbutton", "combobox"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in controls
        if not node["ignored"] and node["role"]["value"] in roles
    ]
    assert [control for control in named if not control[1].strip()] == []
    assert ("textbox", "Search items") in named and len(named) > 20


def test_the_page_asks_no_other_host_and_logs_no_error(page):
    build(page, {"matrix": "f7"})
    sent = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    urls = [urlsplit(m["params"]["request"]["url"]) for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert {url.hostname for url in urls if url.scheme not in ("data", "blob")} == {"127.0.0.1"}
    assert [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"] == []
