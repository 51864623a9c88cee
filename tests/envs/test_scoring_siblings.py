"""Spellings that are right, and for each kind answers that look like them and are wrong."""

from collections.abc import Iterator

import pytest

from trm_envs.scoring import Verdict, WorkerPool, check_truths, functions, score_math

# truth: its spellings
TEMPERATURES = [
    "5^\\circ C",
    "5^{\\circ}\\text{C}",
    "5\u00b0C",
    "5\\text{\u00b0C}",
    "5^\\circ\\mathrm{C}",
    "5{}^\\circ C",
    "5^\\circ F",
    "5\\text{ degrees Celsius}",
]
RIGHT = {
    "-i": ["0-i", "-i+0", "0-1i", "0 - i"],
    "3": ["3+0i", "3+0\\cdot i", "3-0i", "0i+3"],
    "2i": ["0+2i", "2i+0"],
    "5^\\circ": TEMPERATURES,
    "5": [
        "5\\text{ S}",
        "5\\text{ teslas}",
        "5\\text{ T}",
        "5\\,\\mathrm{T}",
        "5\\text{ mT}",
        "5\\text{ T m}^2",
        "5\\text{ ppb}",
        "5\\text{ parts per million}",
        "5\u2030",
        "5\\text{ per mille}",
        "5\\text{ p.m.}",
        "5\\,\\text{AM}",
        "\\text{5 a.m.}",
        "5\\ \\mathrm{M^{-1}\\,s^{-1}}",
        "5\\text{ M}^{-2}\\text{s}^{-1}",
        "5\\text{ M}\\cdot\\text{s}^{-1}",
        "5\\text{ M/s}",
        "5\\text{ M}^2",
        "5\\text{ molar}",
        "5\\text{ approx.}",
        "5\\text{ (exactly)}",
        "5\\text{ (rounded to the nearest integer)}",
        "5\\text{ cm}\\text{ (rounded up)}",
        "5\\text{ apples only}",
        "5\\text{ per person}",
        "5\\text{ per student}",
        "5\\text{ o'clock}",
        "5\\text{ man-hours}",
        "5\\text{ person-days}",
        *TEMPERATURES,
        "\\text{\\$5}",
        "\\$5",
        "5\\$",
        "\\mathrm{\\$}5",
        "\\mbox{\\$5}",
        "5\\text{\\$}",
        "5\u20ac",
        "5\\text{ m}/\\text{s}",
        "5\\ \\mathrm{m}/\\mathrm{s}",
        "5\\text{ miles}/\\text{hour}",
        "5\\,\\frac{\\text{m}}{\\text{s}}",
        "5\\text{ }\\frac{\\text{km}}{\\text{h}}",
        "5\\mathrm{~m} / \\mathrm{s}",
        "\\frac{5\\pi}{\\pi}",
        "5\\text{ dollars each}",
    ],
    "6": [
        "6\\ \\mathrm{m}\\,\\mathrm{s}^{-2}",
        "6\\text{ kJ/mol}",
        "6\\text{ meters squared}",
        "6\\mu\\mathrm{m}",
        "6\\frac{\\pi}{\\pi}",
    ],
    "\\frac{1}{500000}": ["2\\text{ ppm}", "2000\\text{ ppb}", "0.002\u2030", "0.0002\\%"],
    "0.5\\text{ ppm}": ["0.5", "\\frac12\\text{ parts per million}"],
    "2\\text{ M}^{-1}\\text{s}^{-1}": [
        "2\\text{ L}\\text{ mol}^{-1}\\text{ s}^{-1}",
        "2",
        "\\frac{1}{500}\\text{ mM}^{-1}\\text{s}^{-1}",
    ],
    "3\\text{ T}": ["3", "3\\text{ Wb/m}^2", "3000\\text{ mT}"],
    "8\\text{ W}": ["8\\text{ J/s}", "8000\\text{ mW}", "8\\text{ V}\\cdot\\text{A}", "0.008\\text{ kW}"],
    "7\\text{ cm}": ["7\\text{ in total}", "70\\text{ mm}"],
    "90\\text{ minutes}": ["1\\text{ hour and }30\\text{ minutes}", "1\\text{ hour }30\\text{ minutes}"],
    "5.5\\text{ ft}": ["5\\text{ feet }6\\text{ inches}", "66''", "5.5'"],
    "5^\\circ C": ["5", "5^\\circ", "5\u00b0C", "5^\\circ\\text{C}", "5\\text{ degrees Celsius}"],
    "\\text{\\$5}": ["5", "\\$5", "5\\text{ dollars}"],
    "1250": ["\\text{\\$1,250}"],
    "5\\text{ m}/\\text{s}": ["5", "5\\text{ m/s}", "18\\text{ km/h}"],
    "\\frac14": ["\\frac{4\\pi}{16\\pi}", "\\frac{\\pi}{4\\pi}"],
    "17": ["\\frac{34\\sqrt2}{2\\sqrt2}"],
    "2": ["\\frac{2\\sqrt2}{\\sqrt2}"],
    "\\frac{3\\sqrt2}{2}": ["3\\cdot\\frac{\\sqrt2}{2}", "\\frac{3}{\\sqrt2}", "\\frac32\\sqrt2"],
    "(-1,3)": [
        "x>-1 and x<3",
        "-1<x\\text{ and }x<3",
        "x>-1\\text{ and }x<3",
        "x<3 \\land x>-1",
        "-1<x and x<3",
        "-1 < x \\wedge x<3",
    ],
    "[-1,3]": ["x\\geq -1\\text{ and }x\\leq 3"],
    "(-1,3]": ["x\\le 3\\text{ and }x>-1"],
    "\\mathbb{R}\\setminus\\{1\\}": ["\\mathbb{R}-\\{1\\}", "\\mathbb{R}\\backslash\\{1\\}"],
    "(-\\infty,1)\\cup(1,\\infty)": ["\\mathbb{R}-\\{1\\}"],
    "\\mathbb{R}-\\{1\\}": ["x\\neq 1"],
    "\\mathbb{R}": ["\\text{all real numbers}", "all real numbers", "all reals", "\\text{all reals}", "\\Bbb{R}"],
    "(-\\infty,\\infty)": [
        "\\text{all real numbers}",
        "all real numbers",
        "all reals",
        "\\text{all reals}",
        "\\Bbb{R}",
    ],
    "\\text{all real numbers}": ["\\mathbb{R}", "(-\\infty,\\infty)", "all reals"],
    "(2^{1012}-1)(2^{1012}+1)": ["2^{2024}-1", "(2^{1012}+1)(2^{1012}-1)"],
    "2x+1": ["1+2x", "\\frac{4x+2}{2}"],
    "2\\pi x": ["\\frac{4\\pi x}{2}"],
}

# truth: answers that look like a spelling of it
WRONG = {
    "-i": ["0+i", "0-2i", "1-i", "0\\cdot i", "0-i+0", "0-i-1", "i+0"],
    "3": ["0+3", "3+0", "3+1i", "3+0+0i", "3i+0", "2+1+0i", "3\\cdot 0i", "0+3i", "3+0x"],
    "391": [
        "17\\cdot 23+0i",
        "0i+17\\cdot23",
        "17\\frac{23\\pi}{\\pi}",
        "\\frac{17\\pi\\cdot23}{\\pi}",
        "\\frac{17\\cdot23\\pi}{\\pi}",
        "\\frac{17\\pi}{\\pi/23}",
        "17\\pi\\cdot\\frac{23}{\\pi}",
        "17\\sqrt{2}\\cdot\\frac{23}{\\sqrt{2}}",
        "17\\sqrt2\\frac{23}{\\sqrt2}",
        "\\frac{17\\sqrt{2}}{\\frac{\\sqrt2}{23}}",
        "17\\sqrt2/(\\sqrt2/23)",
        "(17\\sqrt2)(\\frac{23}{\\sqrt2})",
        "(17\\sqrt2)(23/\\sqrt2)",
        "17\\sqrt2\\cdot(23/\\sqrt2)",
        "17(\\sqrt2)^2\\cdot\\frac{23}{2}",
    ],
    "5^\\circ C": [
        "5^\\circ F",
        "5\\text{ degrees Fahrenheit}",
        "6^\\circ C",
        "5C",
        "5\\text{ radians}",
        "5\\text{ K}",
        "-5^\\circ C",
    ],
    "5^\\circ": ["5^\\circ X", "5C", "5^\\circ\\text{k}", "5^\\circ CC", "5^C", "50^\\circ C", "5\\text{ radians}"],
    "5": [
        "5C",
        "5\\text{ k}",
        "\\$5\\text{ K}",
        "5\\text{ K}\\$",
        "5\\text{ M}",
        "5^{C}",
        "5\\text{ B}",
        "\\$5\\text{ T}",
        "\\text{\\$6}",
        "\\text{\\$5k}",
        "\\text{\\$5M}",
        "\\text{\\$}6",
        "\\text{\\$5, \\$6}",
        "5\\$6",
        "\\$5\\text{ million}",
        "\\text{\\$50}",
        "\\$\\$5k",
        "5\\frac{m}{s}",
        "5m/s",
        "6\\text{ m}/\\text{s}",
        "5\\text{ k}/\\text{m}",
        "5\\text{ m}/\\text{2}",
        "5\\frac{\\text{x}}{\\text{y}}",
        "5/\\text{s}",
        "5\\text{ dozen}/\\text{s}",
        "\\frac{5\\pi}{2\\pi}",
        "\\frac{5\\pi}{\\pi^2}",
        "\\frac{5}{\\pi}",
        "\\frac{5\\pi}{e}",
        "\\pi-\\pi+5",
        "5S",
        "5T",
        "\\$5\\text{ mT}",
        "5\\text{ TT}",
        "6\\text{ ppm}",
        "50\\text{ ppm}",
        "5\\text{ ppm apples}",
        "5\\text{ ppm of a dozen}",
        "5\\text{ parts per dozen}",
        "6\\text{ a.m.}",
        "5am",
        "5\\text{ a.m. and 6 p.m.}",
        "5\\text{ a.m. or p.m.}",
        "5M^{-1}",
        "5\\text{ M m}",
        "5\\text{ M dollars}",
        "5\\text{ MM}^{-1}",
        "5\\text{ k}^{-1}",
        "5\\text{ (inexactly)}",
        "5\\text{ (approximately half)}",
        "5\\text{ hundred (rounded)}",
        "\\text{not only }5",
        "5\\text{ per hundred}",
        "5\\text{ per dozen men}",
        "6\\text{ o'clock}",
        "5\\text{ or man}",
        "5\\text{ each way}",
        "5\\text{ apples each side}",
    ],
    "5\\text{ degrees Celsius}": ["5\\text{ degrees Fahrenheit}"],
    "6": [
        "6\\text{ m dozen}",
        "6\\text{ per}",
        "6\\text{ m}\\cdot 2\\text{ s}",
        "6\\text{ MM}",
        "6N",
        "6\\text{ m or more}",
        "3\\text{ hours and }3\\text{ hours}",
        "5\\text{ hours and }60\\text{ minutes}",
    ],
    "5\\text{ p.m.}": ["5", "5\\text{ a.m.}", "17", "5\\text{ apples}"],
    "5\\text{ men}": ["5\\text{ per man}", "5\\text{ man-hours}", "6\\text{ men}"],
    "2\\text{ M}^{-1}\\text{s}^{-1}": [
        "2\\text{ M s}^{-1}",
        "2\\text{ M}^{-1}",
        "2\\text{ mM}^{-1}\\text{s}^{-1}",
        "2M^{-1}s^{-1}",
    ],
    "3\\text{ T}": ["3\\text{ mT}", "3\\text{ Wb}", "3000000000000", "3T"],
    "3000000000000": ["3\\text{ T}", "\\$3\\text{ T}"],
    "0.5\\%": ["0.5\\text{ ppm}", "5\\text{ ppm}", "0.5\u2030"],
    "8\\text{ W}": ["8\\text{ J}", "8\\text{ mW}", "8\\text{ MW}", "8\\text{ V}", "8W"],
    "12\\sqrt{5}": ["3(4\\sqrt5)", "\\frac{3\\sqrt5}{2}\\cdot 8", "(3\\sqrt5)(4)", "3\\cdot\\frac{8\\sqrt5}{2}"],
    "12i": ["3(4i)", "(3i)(4)"],
    "(3,2)": ["3<x<2", "2>x>3", "3\\leq x<2"],
    "\\$5": ["5\\text{ cents}", "\\text{\\$500}"],
    "5\\text{ m}/\\text{s}": [
        "5\\text{ m}/\\text{h}",
        "5\\text{ cm}/\\text{s}",
        "5\\text{ m}",
        "5\\text{ s}/\\text{m}",
        "18\\text{ km}/\\text{s}",
    ],
    "(-1,3)": [
        "x>-1\\text{ or }x<3",
        "x>-1\\text{ and }y<3",
        "x\\geq -1\\text{ and }x<3",
        "x>-1 and x>3",
        "x<-1 and x>3",
        "x>-1, x<3",
        "x>-1 and x<4",
        "x>-1",
        "x>-1 and x=3",
        "x>-1 and x<3 and x<2",
    ],
    "(-1,3]": ["x>-1 and x<3"],
    "(3,-1)": ["x>3 and x<-1"],
    "\\mathbb{R}\\setminus\\{1\\}": [
        "\\mathbb{R}-\\{2\\}",
        "\\mathbb{R}-1",
        "\\mathbb{R}",
        "\\mathbb{R}+\\{1\\}",
        "\\mathbb{Z}-\\{1\\}",
        "\\mathbb{R}-\\{-1\\}",
        "\\mathbb{R}-\\{1\\}-\\{2\\}",
    ],
    "\\mathbb{R}": [
        "\\text{all rational numbers}",
        "\\text{all real numbers except }1",
        "all numbers",
        "\\text{no real numbers}",
        "\\text{some real numbers}",
        "\\text{all integers}",
        "\\text{all positive real numbers}",
    ],
    "(-\\infty,\\infty)": [
        "\\text{all rational numbers}",
        "\\text{all real numbers except }1",
        "all numbers",
        "\\text{no real numbers}",
        "\\text{some real numbers}",
        "\\text{all integers}",
        "\\text{all positive real numbers}",
    ],
    "\\frac34": ["\\frac34=0.75"],
    "0": ["(\\sqrt2)^2-2"],
    "e": ["E"],
    "2^{2024}-1": ["(2^{1012}-1)(2^{1012}+1)"],
    "2x+1": ["2x", "3", "2x+1+10^{-40}"],
    "2\\pi": ["6", "2\\pi+10^{-60}", "2x"],
}


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pytest.importorskip("math_verify", reason="pip install 'trm-agent[math]'")
    pool = WorkerPool(1)
    yield pool
    pool.close()


@pytest.mark.parametrize("truth", RIGHT)
def test_another_spelling_of_the_value_is_right(pool: WorkerPool, truth: str) -> None:
    for spelling in RIGHT[truth]:
        outcome = score_math(f"\\boxed{{{spelling}}}", truth, pool=pool)
        assert outcome.verdict is Verdict.CORRECT, (spelling, outcome.detail)


@pytest.mark.parametrize("truth", WRONG)
def test_what_looks_like_a_spelling_is_wrong(pool: WorkerPool, truth: str) -> None:
    for answer in WRONG[truth]:
        outcome = score_math(f"\\boxed{{{answer}}}", truth, pool=pool)
        assert outcome.verdict is Verdict.WRONG, (answer, outcome.detail)


@pytest.mark.parametrize(
    "truth", ["\\max(x,100)", "\\min(x,y)", "\\gcd(n,6)", "\\lcm(2,x)", "\\operatorname{max}(x,1)"]
)
def test_a_truth_that_picks_among_variables_is_refused_with_the_reason(truth: str) -> None:
    assert "is not scored; give its value" in check_truths([truth])[0]


def test_no_answer_fits_the_points_of_comparison_of_another_process() -> None:
    # (x-a)(x-b) is 0 at the two points of this process, where the truth plus it is the truth
    points = [int(functions._coordinate("x", turn)) for turn in range(functions.NUM_POINTS)]
    answer = f"\\boxed{{x+(x-{points[0]})(x-{points[1]})}}"
    assert score_math(answer, "x").verdict is Verdict.CORRECT
    functions._coordinate.cache_clear()
    assert score_math(answer, "x").verdict is Verdict.WRONG


def test_quotients_of_polynomials_need_no_worker() -> None:
    closed = WorkerPool(1)
    closed.close()
    # 1/(x-1) - 1/(x+1) is 2/(x^2-1); one more in the last place of a coefficient is not
    truth = "\\frac{2}{x^2-1}"
    assert score_math("\\boxed{\\frac{1}{x-1}-\\frac{1}{x+1}}", truth, pool=closed).verdict is Verdict.CORRECT
    assert score_math("\\boxed{\\frac{2}{x^2-1.000000000000000000000001}}", truth, pool=closed).verdict is Verdict.WRONG
