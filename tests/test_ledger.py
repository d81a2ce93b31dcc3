"""How often a test set was looked at, in a real MLflow store, and how certain the gate must be."""

from dataclasses import replace

import mlflow
import numpy as np
import pytest

from image_classifier.data import manifest
from image_classifier.data.manifest import ImageRow
from image_classifier.errors import InputError
from image_classifier.evaluation import looks
from image_classifier.evaluation.bootstrap import certain_low, exact_interval
from image_classifier.evaluation.comparison import Comparison, difference
from image_classifier.stages.promote import not_above_chance, not_better
from image_classifier.tracking import ledger, searches
from image_classifier.tracking.registry import Version

SET, OTHER_SET = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store of this module."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def store(empty_store: str, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store)
    ledger.connection.connect()
    return mlflow.MlflowClient()


def new_run(store: mlflow.MlflowClient, experiment: str = "first") -> str:
    known = store.get_experiment_by_name(experiment)
    identifier = known.experiment_id if known else store.create_experiment(experiment)
    return store.create_run(identifier).info.run_id


def test_every_version_is_one_look_whatever_becomes_of_its_run(store: mlflow.MlflowClient):
    assert ledger.looks(SET) == ledger.Ledger(SET, (), 0)
    run = new_run(store)
    first = Version("models", "1", run, {})
    assert ledger.mark_evaluation(first, SET).evaluations == 1
    time = ledger.looks(SET).looks[0].time
    again = ledger.mark_evaluation(first, SET)  # after a kill, or `dvc repro -f`
    assert [look.time for look in again.looks] == [time]

    ledger.mark_evaluation(Version("models", "2", run, {}), SET)  # with another threshold
    other_model = Version("others (small)", "2", new_run(store, "second"), {})
    ledger.mark_evaluation(other_model, SET)
    ledger.mark_evaluation(Version("models", "4", run, {}), OTHER_SET)

    found = ledger.looks(SET)
    assert found.versions == ["models:/models/1", "models:/models/2", other_model.uri]
    assert (found.evaluations, found.decisions) == (3, 0)
    assert found.first == found.last == time[:10]
    assert found.look_of(other_model) == 3
    with pytest.raises(InputError, match="does not know that models:/models/4 was evaluated"):
        found.look_of(Version("models", "4", run, {}))
    assert ledger.looks(OTHER_SET).versions == ["models:/models/4"]

    for _ in range(2):
        judged = ledger.mark_decision(first, SET)
        assert (judged.evaluations, judged.decisions, judged.look_of(first)) == (3, 1, 1)
    # of an earlier release: the gate decides about a version that left no mark
    assert ledger.mark_decision(Version("models", "5", new_run(store), {}), SET).evaluations == 4

    before = ledger.looks(SET)
    store.delete_run(run)
    store.delete_experiment(store.get_experiment_by_name("second").experiment_id)
    assert ledger.looks(SET) == before


def test_a_version_with_the_predictions_of_another_is_no_new_look(store: mlflow.MlflowClient):
    digest = "e" * 64
    first, second, same = (Version("same", str(n), new_run(store), {}) for n in (1, 2, 3))
    ledger.mark_evaluation(first, digest, "1234")
    ledger.mark_evaluation(second, digest, "5678")
    found = ledger.mark_evaluation(same, digest, "1234")  # such as after an update of the code
    assert found.versions == [first.uri, second.uri]
    assert [found.look_of(version) for version in (first, second, same)] == [1, 2, 1]
    assert ledger.mark_decision(same, digest).look_of(same) == 1
    # where the predictions are not known, each is a look
    for number in (4, 5):
        found = ledger.mark_evaluation(Version("same", str(number), new_run(store), {}), digest)
    assert found.evaluations == 4


def test_more_runs_than_one_answer_has_are_all_counted(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(searches, "PAGE", 2)
    for number in range(5):
        version = Version("pages", str(number), new_run(store, f"experiment {number}"), {})
        found = ledger.mark_evaluation(version, "c" * 64)
    assert found.evaluations == 5


def test_the_test_set_is_its_contents_and_labels():
    def image(path: str, split: str = "test") -> ImageRow:
        return ImageRow(path, "a", split, path, "", "", "", -1, "PNG", "RGB", 8, 8, 100)

    rows = [image("1"), image("2"), image("3", "train")]
    digest = manifest.test_digest(rows)
    moved = replace(rows[0], path="elsewhere.png", group="patient", source="north")
    assert manifest.test_digest([rows[1], moved, image("4", "train")]) == digest
    for others in (
        rows[1:],
        [*rows, rows[0]],
        [replace(rows[0], label="b"), *rows[1:]],
        [replace(rows[0], sha256="new"), *rows[1:]],
    ):
        assert manifest.test_digest(others) != digest


def images(number: int) -> list[ImageRow]:
    return [
        ImageRow(str(i), "ab"[i % 2], "test", str(i), "", "", "", -1, "PNG", "RGB", 8, 8, 100)
        for i in range(number)
    ]


def test_at_look_30_the_gate_refuses_what_it_accepts_at_look_1(store: mlflow.MlflowClient):
    """The looks are versions in the store: the first of them, and the last of 30."""
    run = new_run(store, "thirty")
    for number in range(1, 31):
        known = ledger.mark_evaluation(Version("thirty", str(number), run, {}), "d" * 64)
    first, last = (known.look_of(Version("thirty", number, run, {})) for number in ("1", "30"))
    rows = images(200)
    labels = [row.label for row in rows]
    wrong = ["ba"["ba".index(label) - 1] for label in labels]
    better = [*wrong[:4], *labels[4:]]
    worse = [*labels[:4], *wrong[4:24], *labels[24:]]  # 20 images lost, 4 won
    entry = {"value": 0.62, "low": 0.54, "high": 0.7}
    evaluated = {
        "intervals": {"balanced_accuracy": entry}, "chance": {"balanced_accuracy": 0.5}
    }  # fmt: skip
    for look, accepted in ((first, True), (last, False)):
        level = looks.level_of_look(look)
        scores = difference("balanced_accuracy", rows, better, worse, level)
        comparison = Comparison("1", "balanced_accuracy", len(rows), 0, *scores, level)
        reasons = not_better(comparison, look)
        reasons += not_above_chance(evaluated, "balanced_accuracy", rows, look)
        assert bool(reasons) == (not accepted)
    for reason in reasons:
        assert "the 99.9946% interval (look 30 at this test set)" in reason.lower()
        assert "more test images of all classes would decide it" in reason


def test_a_metric_without_errors_has_an_exact_interval_at_every_level():
    rows = images(20)
    labels, clusters = [row.label for row in rows], [row.cluster for row in rows]
    level = looks.level_of_look(30)
    exact = ((1 - level) / 2) ** (1 / 20)
    assert certain_low("accuracy", labels, clusters, level) == pytest.approx(exact)
    assert certain_low("balanced_accuracy", labels, clusters, level) == pytest.approx(exact)
    lowest = exact_interval(10, 10, level)[0]
    assert certain_low("f1_macro", labels, clusters, level) == pytest.approx(lowest)
    assert certain_low("accuracy", labels, ["one"] * 20, 0.95) == pytest.approx(0.025)
    few = {"value": 1.0, "low": 1.0, "high": 1.0}
    for number, above in ((20, True), (12, False)):
        evaluated = {"intervals": {"accuracy": few}, "chance": {"accuracy": 0.5}}
        assert bool(not_above_chance(evaluated, "accuracy", images(number), 30)) == (not above)


def test_looks_at_equal_models_rarely_promote_one_by_chance():
    """Thirty models as good as the champion, compared with it on the same 80 images."""
    generator = np.random.default_rng(0)
    sequences, count, accuracy = 300, 30, 0.9
    levels = [looks.level_of_look(look) for look in range(1, count + 1)]
    least = [looks.least_differing(level) for level in levels]
    lows: dict[tuple[int, int], float] = {}
    promoted = fixed = 0
    for _ in range(sequences):
        champion = generator.random(80) < accuracy
        others = generator.random((count, 80)) < accuracy
        won, lost = (others & ~champion).sum(1), (~others & champion).sum(1)
        ends = []
        for pair in zip(won.tolist(), lost.tolist(), strict=True):
            if pair not in lows:  # a bootstrap over images, of which only these matter
                shares = [pair[0] / 80, pair[1] / 80, 1 - sum(pair) / 80]
                drawn = generator.multinomial(80, shares, 1000)
                lows[pair] = float(np.percentile(drawn[:, 0] - drawn[:, 1], 2.5))
            ends.append((pair[0] - pair[1], lows[pair], sum(pair)))
        fixed += any(low > 0 for _, low, _ in ends)
        promoted += any(
            looks.widened(value, low, value, level)[0] > 0 and differing >= fewest
            for (value, low, differing), level, fewest in zip(ends, levels, least, strict=True)
        )
    assert promoted / sequences <= 0.05
    assert fixed / sequences > 0.2  # 95% at every look


def test_the_levels_are_spent_at_most_once_and_fresh_images_are_due_when_it_doubles():
    spent = sum(1 - looks.level_of_look(look) for look in range(1, 10_000))
    assert 0.0499 < spent < 0.05
    assert looks.percent(looks.level_of_look(1)) == "97.5%"
    assert looks.widened(0.8, 0.7, 0.85, 0.95) == pytest.approx((0.7, 0.85))
    known = {"digest": SET, "looks": 23, "decisions": 1}
    assert not looks.due(known)
    assert "Fresh test images are due: after 24 looks" in looks.due(known | {"looks": 24})
    assert looks.sentence(known) == (
        f"By this MLflow store, this test set (digest `{'a' * 16}`) was looked at 23 times: "
        f"23 versions evaluated, 1 decision of the gate."
    )
