"""The report of `cutline explore` in a headless Chromium: it opens without a network, a click on a
point shows that plan everywhere, and the numbers shown are those of `explore.json`."""

import json

import pytest
from command import SHOTS, WINDOWS, cutline

PLATFORM = """
version = 1
[[device]]
name = "pi"
memory = "1GiB"
power = "6.4W"
purchase = "60"
life_months = 36
{pi}
[[device]]
name = "cloud"
power = "120W"
rent = "180"
users_per_instance = 60
{cloud}
[[link]]
between = ["pi", "cloud"]
up = "6mbit"
down = "50mbit"
delay = "5ms"
energy = "100nJ/byte"
[workload]
users = 5000
frames_per_second = "1"
electricity = "0.3"
currency = "EUR"
"""


def table_of_costs():
    """Blocks with a branch and a skip; channels double where the picture halves."""
    layers, channels, side = [], 16, 112

    def layer(name, inputs, pi, cloud, size=None):
        size = size or channels * side * side
        layers.append({"name": name, "inputs": inputs, "output_bytes": size, "parameter_bytes": channels * channels * 9, "time_ns": {"pi": pi, "cloud": cloud}})
        return name

    last = layer("stem", [], 9_000_000, 300_000)
    for block in range(24):
        if block % 6 == 5:
            side, channels = side // 2, channels * 2
        left = layer(f"block{block}/left", [last], 4_000_000, 200_000)
        right = layer(f"block{block}/<right> & \"co\"", [last], 2_500_000, 90_000)
        last = layer(f"block{block}/join", [left, right, last][: 2 + block % 2], 500_000, 40_000)
    layer("answer", [last], 2_000_000, 100_000, 4_000)
    uint8 = {"name": "uint8", "num": 1, "den": 4, "enc_ns_per_kb": 300, "dec_ns_per_kb": 300, "lossy": True}
    return {"version": 1, "input": {"fp32": 602112, "jpeg": 90_000}, "layers": layers, "outputs": ["answer"], "codecs": [uint8]}


def from_costs(folder):
    (folder / "costs.json").write_text(json.dumps(table_of_costs()))
    (folder / "platform.toml").write_text(PLATFORM.format(pi="", cloud=""))
    problem = ["--costs", "costs.json", "--cut-encoding", "uint8,fp32"]
    cutline("explore", *problem, "--platform", "platform.toml", "-o", "out", cwd=folder)
    return folder / "out"


def from_profiles(folder):
    """A real network with real times: here, and on the same machine told to be five times slower."""
    cutline("zoo", "write", "squeezenet", "--input-size", 64, "-o", "net.onnx", cwd=folder)
    cutline("profile", "net.onnx", "--engine", "rten", "--threads", 1, "--budget", 60, "--time", "2s", "-o", "cloud.json", cwd=folder)
    profile = json.loads((folder / "cloud.json").read_text())
    for group in profile["groups"]:
        group["time_ns"] *= 5
    (folder / "pi.json").write_text(json.dumps(profile))
    profiles = {"pi": 'profiles = ["pi.json"]', "cloud": 'profiles = ["cloud.json"]'}
    (folder / "platform.toml").write_text(PLATFORM.format(**profiles))
    cutline("explore", "net.onnx", "--platform", "platform.toml", "-o", "out", cwd=folder)
    return folder / "out"


@pytest.fixture(scope="module", params=[from_costs, from_profiles])
def report(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


def explored(report):
    return json.loads((report / "explore.json").read_text())


def place(page, chart, dataset, index):
    """Where a drawn element is in the window, scrolled to it."""
    return page.run(f"""(() => {{
        const canvas = document.querySelector("#{chart} canvas");
        canvas.scrollIntoView({{ block: "center" }});
        const element = Chart.getChart(canvas).getDatasetMeta({dataset}).data[{index}];
        const at = element.getCenterPoint(true), box = canvas.getBoundingClientRect();
        return [box.left + at.x, box.top + at.y];
    }})()""")


def shown(page):
    """Position and numbers of the plan that the panel shows."""
    return page.run("""(() => ({
        plan: Number(document.getElementById("plan").dataset.plan),
        title: document.getElementById("plan-title").textContent,
        numbers: Object.fromEntries([...document.querySelectorAll("#plan-numbers data")].map(one => [one.dataset.field, Number(one.value)])),
        texts: Object.fromEntries([...document.querySelectorAll("#plan-numbers data")].map(one => [one.dataset.field, one.textContent])),
        parts: [...document.querySelectorAll("#plan-parts data")].map(one => Number(one.value)),
        layers: [...document.querySelectorAll("#plan-stages data")].map(one => Number(one.value)),
        memory: [...document.querySelectorAll("[data-field=device-memory]")].map(one => Number(one.value)),
        energy: [...document.querySelectorAll("[data-field=device-energy]")].map(one => Number(one.value)),
        rows: [...document.querySelectorAll("#table tr.shown")].map(one => Number(one.dataset.plan)),
        bar: document.getElementById("bar-latency").textContent,
    }))()""")


def assert_shows(page, data, at):
    seen, plan = shown(page), data["plans"][at]
    assert seen["plan"] == at
    assert seen["title"] == plan["label"]
    fields = {"latency": "latency_ns", "period": "period_ns", "energy": "energy_nj", "memory": "memory_bytes", "money": "money"}
    assert seen["numbers"] == {name: plan[key] for name, key in fields.items() if plan[key] is not None}
    assert seen["texts"]["latency"] == seen["bar"] == milliseconds(plan["latency_ns"])
    assert seen["parts"] == [part["time_ns"] for part in plan["parts"]]
    assert seen["layers"] == [stage["layers"] for stage in plan["stages"]]
    assert seen["memory"] == [used["memory_bytes"] for used in plan["devices"]]
    assert seen["energy"] == [used["energy_nj"] for used in plan["devices"] if used["energy_nj"] is not None]
    if plan["on_front"] or plan["names"]:
        assert seen["rows"] == [at]


def milliseconds(nanoseconds):
    assert 1e6 <= nanoseconds < 1e10, "times of this test are milliseconds"
    return f"{nanoseconds / 1e6:.2f} ms"


@pytest.mark.parametrize("window", WINDOWS)
def test_the_page_opens_by_itself(page, report, window):
    page.shape(*WINDOWS[window])
    page.open(report / "report.html")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(SHOTS / f"{report.parent.name.rstrip('0')}-{window}.png")
    assert page.errors == []
    assert page.requests == [(report / "report.html").as_uri()], "nothing else is asked for"
    width, inner = page.run("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner, "the page does not scroll sideways"
    assert_shows(page, explored(report), explored(report)["best"])
    assert page.run("document.querySelectorAll('#network .node').length") > 1


def test_a_click_on_a_point_of_the_front_shows_its_plan(page, report):
    page.shape(1400, 1000)
    page.open(report / "report.html")
    data = explored(report)
    points = page.run("Chart.getChart(document.querySelector('#c-front canvas')).data.datasets[3].data.map(point => point.plan)")
    assert set(points) <= set(data["front"]["plans"])
    assert points, "the front has points that are nothing else"
    for index in {0, len(points) // 2, len(points) - 1}:
        page.click(*place(page, "c-front", 3, index))
        # Points may lie on each other: then the upper one is meant.
        at = shown(page)["plan"]
        same = [data["plans"][plan][key] for plan in (at, points[index]) for key in ("latency_ns", "energy_nj")]
        if at != points[index]:
            assert abs(same[0] - same[2]) <= 0.02 * same[0], "another point than the one clicked"
        assert_shows(page, data, at)
    page.move(5, 5)
    assert_shows(page, data, at)


def test_the_plots_are_linked(page, report):
    page.shape(1400, 1000)
    page.open(report / "report.html")
    data = explored(report)
    feasible = [at for at, cut in enumerate(data["cuts"]) if cut["plan"] is not None]
    middle = feasible[len(feasible) // 2]
    at = data["cuts"][middle]["plan"]
    x, y = place(page, "c-cuts", 0, middle)
    page.move(x, y)
    assert_shows(page, data, at)
    assert page.run("document.getElementById('plan-kicker').textContent") == "Under the pointer"
    page.click(x, y)
    page.move(5, 5)
    assert_shows(page, data, at)
    assert page.run("document.getElementById('plan-kicker').textContent") == "Selected plan"
    # The drawing has the devices of the plan, and dashes where a value crosses.
    letters = page.run("[...document.querySelectorAll('#network .node text')].map(one => one.textContent[0])")
    assert set(letters) == {"AB"[stage["device"]] for stage in data["plans"][at]["stages"]}
    assert page.run("document.querySelectorAll('#network .crosses').length") >= 1
    # A row of the table, by keyboard; and a range of the bandwidth.
    edge = next(b["plan"] for b in data["baselines"] if b["name"] == "edge-only")
    page.run(f"document.querySelector('#table button[data-plan=\"{edge}\"]').click()")
    page.settle()
    assert_shows(page, data, edge)
    assert page.run("document.querySelectorAll('#network .crosses').length") == 0
    step = data["bandwidth"]["steps"][-1]["plan"]
    page.run(f"document.querySelector('#steps button[data-plan=\"{step}\"]').click()")
    page.settle()
    assert_shows(page, data, step)
    front = data["front"]["plans"]
    page.run("document.querySelector('#c-front canvas').focus()")
    for _ in range(len(front)):
        page.key("ArrowLeft")
    assert_shows(page, data, front[0])
    if len(front) > 1:
        page.key("ArrowRight")
        assert_shows(page, data, front[1])


def test_other_axes_show_other_objectives(page, report):
    page.shape(1400, 1000)
    page.open(report / "report.html")
    data = explored(report)
    assert {"latency", "period", "energy", "memory", "money"} == set(data["objectives"])
    for objective, key, unit in [("memory", "memory_bytes", "MB"), ("period", "period_ns", "ms")]:
        page.run(f"""(() => {{
            const axis = document.getElementById("axis-y");
            axis.value = "{objective}";
            axis.dispatchEvent(new Event("change"));
        }})()""")
        title, points = page.run("""(() => {
            const chart = Chart.getChart(document.querySelector("#c-front canvas"));
            return [chart.options.scales.y.title.text, chart.data.datasets.slice(0, 4).flatMap(set => set.data)];
        })()""")
        assert f"in {unit}" in title
        for point in points:
            assert point["y"] * 1e6 == pytest.approx(data["plans"][point["plan"]][key], rel=1e-9)
    assert page.errors == []
