"""The page of `cutline study` in a headless Chromium: it opens without a network, other choices draw
other cells, and the numbers shown are those of `study.json`."""

import json

import pytest
from command import SHOTS, WINDOWS, cutline

STUDY = """
version = 1
[study]
frames_per_second = "8"
electricity = "0.20"
cut_encodings = ["uint8"]
bandwidths = ["100kbit", "500kbit", "2mbit", "10mbit", "50mbit", "1gbit"]
[link]
up = "20mbit"
delay = "10ms"
traffic = "0.01"
[[network]]
zoo = "mobilenetv2"
input_sizes = [96, 224]
[[board]]
preset = "rpi3b+"
purchase = "35"
life_months = 36
[[board]]
preset = "jetson-nano-gpu"
purchase = "99"
life_months = 36
[[instance]]
preset = "t2.micro"
[[instance]]
preset = "g4dn.xlarge"
"""

GRID = """
version = 1
networks = ["lenet5"]
batches = [1, 2, 3, 4, 6, 8]
[measure]
min_turns = 3
max_turns = 3
turn_time = "10ms"
rest = "0ms"
"""


def kernels():
    """Times of networks of three families, as a device might take them."""
    times = [("squeezenet", 64, 6), ("squeezenet", 128, 22), ("resnet18", 64, 28), ("resnet18", 96, 62), ("mobilenetv1", 64, 9), ("mobilenetv1", 128, 33)]
    samples = [{"network": name, "input_size": size, "time_ns": ms * 1_000_000} for name, size, ms in times]
    return {"version": 1, "hardware": "a <machine>", "engine": "rten", "engine_version": "1", "threads": 1, "samples": samples}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A study from presets alone."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.toml").write_text(STUDY)
    cutline("study", "study.toml", "-o", "out", cwd=folder)
    return folder / "out"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The same with what was measured."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "study.toml").write_text(STUDY)
    (folder / "kernels.json").write_text(json.dumps(kernels()))
    (folder / "grid.toml").write_text(GRID)
    cutline("characterize", "grid.toml", "-o", "sweep.db", cwd=folder)
    cutline("study", "study.toml", "--kernels", "kernels.json", "--sweep", "sweep.db", "-o", "out", cwd=folder)
    return folder / "out"


def read(study):
    return json.loads((study / "study.json").read_text())


def opened(page, study, window="light"):
    page.shape(*WINDOWS[window])
    page.open(study / "study.html")
    return read(study)


def choose(page, **selections):
    for name, value in selections.items():
        page.run(f"""(() => {{
            const select = document.getElementById("{name}");
            select.value = "{value}";
            select.dispatchEvent(new Event("change"));
        }})()""")
    page.settle()


def cells(page):
    """What the map shows: words, and what each cell stands for."""
    return page.run("""[...document.querySelectorAll("#map button")].map(one => ({
        words: [...one.children].map(part => part.textContent),
        ...Object.fromEntries(["plan", "network", "board", "instance", "rate"].map(key => [key, Number(one.dataset[key])])),
    }))""")


def combination(data, cell):
    return next(one for one in data["combinations"] if all(one[key] == cell[key] for key in ("network", "board", "instance")))


def milliseconds(nanoseconds):
    if nanoseconds >= 1e10:
        return f"{nanoseconds / 1e9:.2f} s"
    return f"{nanoseconds / 1e6:.2f} ms"


def word(data, plan):
    layers = data["networks"][plan["network"]]["layers"]
    return {"edge": "board", "cloud": "cloud"}.get(plan["kind"], f"{plan['layers_on_board']}/{layers}")


def panel(page):
    return page.run("""(() => ({
        plan: Number(document.getElementById("plan").dataset.plan),
        rate: Number(document.getElementById("plan").dataset.rate),
        title: document.getElementById("plan-title").textContent,
        place: document.getElementById("plan-place").textContent,
        values: Object.fromEntries([...document.querySelectorAll("#plan data")].map(one => [one.dataset.field, Number(one.value)])),
    }))()""")


def assert_shows(page, data, at, rate):
    seen, plan = panel(page), data["plans"][at]
    assert (seen["plan"], seen["rate"], seen["title"]) == (at, rate, plan["label"])
    assert data["networks"][plan["network"]]["name"] in seen["place"]
    assert data["boards"][plan["board"]]["name"] in seen["place"]
    values = seen["values"]
    assert values["latency"] == plan["latency_ns"][rate]
    for key in ["money", "rent", "purchase", "electricity", "traffic", "instances"]:
        assert values[key] == plan[key]
    parts = {"edge_compute_ns": plan["edge_compute_ns"], "upload_ns": plan["upload_ns"][rate], "cloud_compute_ns": plan["cloud_compute_ns"], "rest_ns": plan["rest_ns"][rate]}
    assert {key: values[key] for key in parts} == parts
    assert sum(parts.values()) == plan["latency_ns"][rate]


def place(page, selector):
    return page.run(f"""(() => {{
        const one = document.querySelector('{selector}');
        one.scrollIntoView({{ block: "center", inline: "center" }});
        const box = one.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2];
    }})()""")


@pytest.mark.parametrize("window", WINDOWS)
def test_the_page_opens_by_itself(page, measured, window):
    data = opened(page, measured, window)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(SHOTS / f"study-{window}.png")
    assert page.errors == []
    assert page.requests == [(measured / "study.html").as_uri()], "nothing else is asked for"
    width, inner = page.run("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner == WINDOWS[window][0], "the page does not scroll sideways"
    shown = page.run("document.querySelector('.what').textContent")
    assert shown == data["headline"]["what"].replace("`", "")
    sentences = page.run("[...document.querySelectorAll('#sentences li')].map(one => one.textContent)")
    assert sentences == data["sentences"]
    assert any("modelled from presets, not measured" in sentence for sentence in sentences)


def test_the_map_shows_the_best_plan_of_every_cell(page, plain):
    data = opened(page, plain)
    seen = cells(page)
    assert len(seen) == len(data["boards"]) * len(data["rates"])
    assert {cell["network"] for cell in seen} == {1}, "the largest size comes first"
    for cell in seen:
        found = combination(data, cell)
        assert cell["plan"] == found["best"][cell["rate"]]
        plan = data["plans"][cell["plan"]]
        late = ["late"] * (plan["busiest_ns"][cell["rate"]] > data["frame_interval_ns"])
        assert cell["words"] == [word(data, plan), milliseconds(plan["latency_ns"][cell["rate"]]), *late]
    assert len({cell["words"][0] for cell in seen}) > 1, "the optimum moves"


def test_other_rows_and_choices_show_other_cells(page, plain):
    data = opened(page, plain)
    choose(page, rows="instance", board=1, network=0)
    seen = cells(page)
    assert {(cell["network"], cell["board"]) for cell in seen} == {(0, 1)}
    assert {cell["instance"] for cell in seen} == {0, 1}
    choose(page, rows="network", instance=1)
    seen = cells(page)
    assert {(cell["board"], cell["instance"]) for cell in seen} == {(1, 1)}
    assert {cell["network"] for cell in seen} == {0, 1}
    choose(page, which="split")
    for cell in cells(page):
        found = combination(data, cell)
        assert cell["plan"] == found["split"][cell["rate"]]
        plan, best = data["plans"][cell["plan"]], data["plans"][found["best"][cell["rate"]]]
        assert cell["words"][0] == word(data, plan)
        slower = plan["latency_ns"][cell["rate"]] / best["latency_ns"][cell["rate"]]
        if slower > 1.0005:
            assert float(cell["words"][2].removeprefix("× ")) == pytest.approx(slower, rel=6e-3)
        else:
            assert cell["words"][2] == "fastest"
        is_late = plan["busiest_ns"][cell["rate"]] > data["frame_interval_ns"]
        assert (cell["words"][3:] == ["late"]) == is_late
    choose(page, which="split", rows="network", board=0)
    assert any(cell["words"][3:] == ["late"] for cell in cells(page)), "a slow link is late with a split"
    assert page.errors == []


def test_a_cell_is_looked_at_and_chosen(page, plain):
    data = opened(page, plain)
    first = panel(page)
    target = next(cell for cell in cells(page) if cell["board"] == 1 and cell["rate"] == 5)
    x, y = place(page, '#map button[data-board="1"][data-rate="5"]')
    page.move(x, y)
    assert_shows(page, data, target["plan"], 5)
    assert page.run("document.getElementById('plan-kicker').textContent") == "Under the pointer"
    page.move(5, 5)
    assert panel(page) == first, "what is under the pointer is gone with it"
    page.click(x, y)
    page.move(5, 5)
    assert_shows(page, data, target["plan"], 5)
    assert page.run("[document.getElementById('board').value, document.getElementById('rate').value]") == ["1", "5"]
    assert page.run("document.querySelectorAll('#map button.chosen').length") == 1
    # The keyboard: the cell to the left.
    page.run("document.querySelector('#map button.chosen').focus()")
    page.key("ArrowLeft")
    assert page.run("document.activeElement.dataset.rate") == "4"
    page.run("document.activeElement.click()")
    page.settle()
    left = combination(data, target)["best"][4]
    assert_shows(page, data, left, 4)
    assert page.errors == []


def test_the_plots_are_of_the_chosen_cell(page, plain):
    data = opened(page, plain)
    choose(page, board=1, instance=1, rate=1)
    found = combination(data, {"network": 1, "board": 1, "instance": 1})
    lines = page.run("""Chart.getChart(document.querySelector("#c-lines canvas")).data.datasets.map(set => set.data.map(point => point.plan))""")
    assert lines == [found[key] for key in ("best", "edge", "cloud", "split")]
    ranges = page.run("[...document.querySelectorAll('#changes tbody button')].map(one => Number(one.dataset.plan))")
    assert ranges == [one["plan"] for one in found["changes"]]

    front = next(one for one in data["fronts"] if (one["network"], one["rate"]) == (1, 1))["plans"]
    drawn = page.run("""Chart.getChart(document.querySelector("#c-front canvas")).data.datasets.slice(0, 3).flatMap(set => set.data.map(point => point.plan))""")
    assert sorted(drawn) == sorted(front)
    assert page.run("[...document.querySelectorAll('#front tbody tr')].map(one => Number(one.dataset.plan))") == front
    others = page.run("""Chart.getChart(document.querySelector("#c-front canvas")).data.datasets[3].data.length""")
    assert others + len(front) == sum(plan["network"] == 1 for plan in data["plans"])

    labels, stacks = page.run("""(() => {
        const { labels, datasets } = Chart.getChart(document.querySelector("#c-money canvas")).data;
        return [labels, datasets.map(set => [set.label, set.data])];
    })()""")
    assert [name for name, _ in stacks] == ["rent", "purchase", "electricity", "traffic"]
    assert labels[0] == "all on the board" and len(labels) == 5, labels
    cloud = data["plans"][found["cloud"][1]]
    at = labels.index("g4dn.xlarge, all")
    sums = {name: values[at] for name, values in stacks}
    for name in sums:
        assert sums[name] / sum(sums.values()) == pytest.approx(cloud[name] / cloud["money"], abs=1e-9)
    assert cloud["traffic"] > 0 and cloud["rent"] > 0 and cloud["purchase"] > 0


def test_a_point_of_the_front_brings_its_board(page, plain):
    data = opened(page, plain)
    rate = int(page.run("document.getElementById('rate').value"))
    front = next(one for one in data["fronts"] if (one["network"], one["rate"]) == (1, rate))["plans"]
    for at in front:
        page.run(f"document.querySelector('#front button[data-plan=\"{at}\"]').click()")
        page.settle()
        assert_shows(page, data, at, rate)
        assert page.run("document.getElementById('board').value") == str(data["plans"][at]["board"])
        assert page.run("[...document.querySelectorAll('#front tr.shown')].map(one => Number(one.dataset.plan))") == [at]
    x, y = page.run("""(() => {
        const canvas = document.querySelector("#c-front canvas");
        canvas.scrollIntoView({ block: "center" });
        const chart = Chart.getChart(canvas), set = chart.data.datasets.findIndex(set => set.data.length && set.data[0].plan !== undefined);
        const at = chart.getDatasetMeta(set).data[0].getCenterPoint(true), box = canvas.getBoundingClientRect();
        return [box.left + at.x, box.top + at.y];
    })()""")
    page.click(x, y)
    page.move(5, 5)
    assert panel(page)["plan"] in front
    assert page.errors == []


def test_what_was_measured_is_drawn_with_its_errors_and_law(page, measured):
    data = opened(page, measured)
    of = data["predictions"][0]
    points, upper, lower = page.run("""(() => {
        const sets = Chart.getChart(document.querySelector("#c-predictions canvas")).data.datasets;
        return [sets[0].data, sets[2].data, sets[3].data];
    })()""")
    assert [point["name"] for point in points] == [point["name"] for point in of["points"]]
    for point, known in zip(points, of["points"]):
        assert point["y"] / point["x"] == pytest.approx(known["predicted_ns"] / known["measured_ns"])
    band = of["band_permille"] / 1000
    assert upper[0]["y"] / upper[0]["x"] == pytest.approx(1 + band)
    assert lower[0]["y"] / lower[0]["x"] == pytest.approx(max(1 - band, 1e-3))
    inside = sum(abs(point["y"] / point["x"] - 1) <= band + 1e-3 for point in points)
    assert inside >= 0.9 * len(points)
    assert f"median error is {of['median_permille'] / 10:g} %" in page.run("document.getElementById('predictions-note').textContent")

    curve = data["scaling"][0]
    drawn, law = page.run("""(() => {
        const sets = Chart.getChart(document.querySelector("#c-scaling canvas")).data.datasets;
        return [sets[0].data, sets[1].data];
    })()""")
    assert [(point["x"], point["y"]) for point in drawn] == [(point["n"], point["frames_per_second"]) for point in curve["points"]]
    assert law[0]["y"] == pytest.approx(curve["lambda"])
    assert law[-1]["x"] > curve["points"][-1]["n"]
    assert page.errors == []


def test_without_measurements_the_page_says_what_they_would_take(page, plain):
    opened(page, plain)
    for section, option in [("predictions", "--kernels"), ("scaling", "--sweep")]:
        assert page.run(f"document.getElementById('{section}').hidden")
        assert option in page.run(f"document.getElementById('{section}-note').textContent")
    assert page.errors == []
