"""The Predictor gives what preprocessing, network and softmax give by hand, whatever form the images come in."""

import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from depthwise.bundle import read_bundle
from depthwise.data import BadImage
from depthwise.data.image import decode
from depthwise.errors import DepthwiseError, UsageError
from depthwise.infer import Prediction, Predictor
from depthwise.ship.load import load, load_module

SIZES = [(40, 30), (32, 32), (5, 90), (64, 31), (1, 1)]


@pytest.fixture(scope="module", params=["torch", "native"])
def predictor(tiny_bundle: Path, request: pytest.FixtureRequest) -> Predictor:
    return load(tiny_bundle, engine=request.param)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of several sizes; the last one is grey."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels).convert("L" if i == len(SIZES) - 1 else "RGB").save(paths[-1])
    return paths


def test_the_answers_are_the_bits_of_doing_it_by_hand(tiny_bundle: Path, pictures: list[Path]) -> None:
    bundle = read_bundle(tiny_bundle)
    preprocess, classes = bundle.config.preprocess, bundle.config.classes
    module = load_module(bundle).to(memory_format=torch.channels_last)
    batch = torch.stack([preprocess(decode(path, 3)) for path in pictures])
    with torch.inference_mode():
        expected = module(batch.contiguous(memory_format=torch.channels_last)).softmax(1)
    predictions = load(tiny_bundle, engine="torch")(pictures, topk=len(classes))
    assert [prediction.name for prediction in predictions] == [str(path) for path in pictures]
    for prediction, row in zip(predictions, expected, strict=True):
        assert prediction.probabilities == tuple(row.sort(descending=True).values.tolist())
        assert prediction.indices == tuple(row.argsort(descending=True).tolist())
        assert prediction.classes == tuple(classes[i] for i in prediction.indices)


def test_every_form_of_an_image_gives_the_same_answer(predictor: Predictor, pictures: list[Path]) -> None:
    path = pictures[0]
    expected = predictor(path)
    assert isinstance(expected, Prediction)
    with Image.open(path) as image:
        pixels = np.array(image)
        forms = [str(path), path.read_bytes(), image, pixels, torch.from_numpy(pixels).permute(2, 0, 1)]
        answers = [predictor(form) for form in forms]
    for answer in answers:
        assert (answer.classes, answer.probabilities) == (expected.classes, expected.probabilities)
    assert answers[0].name == str(path)
    assert answers[1].name == "image 0"


def test_it_says_what_it_is(predictor: Predictor) -> None:
    module = type(predictor.module).__name__
    assert repr(predictor) == f"Predictor({module}, 3 classes, images of 32x32)"


def test_lists_keep_their_order_across_batches(predictor: Predictor, pictures: list[Path]) -> None:
    singly = [predictor(path) for path in pictures]
    for batch_size in (1, 2, 3, 100):
        together = predictor(iter(pictures), batch_size=batch_size)
        assert [p.name for p in together] == [p.name for p in singly]
        for one, other in zip(singly, together, strict=True):
            assert one.indices == other.indices
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert predictor([]) == []


def test_topk_cuts_the_answer_off(predictor: Predictor, pictures: list[Path]) -> None:
    all_three = predictor(pictures[0], topk=10)
    assert len(all_three.classes) == 3
    assert sum(all_three.probabilities) == pytest.approx(1.0)
    best = predictor(pictures[0], topk=1)
    assert best.classes == all_three.classes[:1]
    assert best.probabilities == all_three.probabilities[:1]


def test_an_unreadable_image_is_named(predictor: Predictor, pictures: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "brökén.jpg"
    broken.write_bytes(b"\xff\xd8\xff but no picture")
    with pytest.raises(DepthwiseError, match=r"brökén\.jpg cannot be read: "):
        predictor([pictures[0], broken])
    with pytest.raises(DepthwiseError, match="image 1 cannot be read: "):
        predictor([pictures[0], b"no picture"])


def test_an_unreadable_image_does_not_stop_a_stream(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    missing = tmp_path / "missing.png"
    images = [missing, *pictures[:3], b"no picture", pictures[3], missing]
    for batch_size in (1, 2, 100):
        answers = list(predictor.stream(images, batch_size=batch_size))
        assert [i for i, answer in enumerate(answers) if isinstance(answer, BadImage)] == [0, 4, 6]
        assert answers[0] == BadImage(str(missing), "No such file or directory")
        names = [answer.name for answer in answers if isinstance(answer, Prediction)]
        assert names == [str(path) for path in pictures[:4]]


def test_many_threads_get_the_answers_one_gets(predictor: Predictor, pictures: list[Path]) -> None:
    expected = predictor(pictures)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: predictor(pictures), range(24))) == [expected] * 24


def test_equal_probabilities_rank_by_class_number(tiny_bundle: Path, pictures: list[Path]) -> None:
    bundle = read_bundle(tiny_bundle)
    module = load_module(bundle)
    torch.nn.init.zeros_(module.classifier.weight)
    torch.nn.init.zeros_(module.classifier.bias)
    predictor = Predictor(module, bundle.config.preprocess, bundle.config.classes)
    assert predictor(pictures[0]).indices == (0, 1, 2)


def test_an_answer_that_is_not_finite_is_an_error(tiny_bundle: Path, pictures: list[Path]) -> None:
    bundle = read_bundle(tiny_bundle)
    module = load_module(bundle)
    torch.nn.init.constant_(module.classifier.weight, torch.nan)
    predictor = Predictor(module, bundle.config.preprocess, bundle.config.classes)
    with pytest.raises(DepthwiseError, match=r"0\.png is not finite, its training diverged"):
        predictor(pictures[0])


def test_a_threshold_leaves_the_unlikely_out(predictor: Predictor, pictures: list[Path]) -> None:
    everything = predictor(pictures[0])
    best = predictor(pictures[0], threshold=everything.probabilities[0])
    assert (best.classes, best.probabilities) == (everything.classes[:1], everything.probabilities[:1])
    assert predictor(pictures[0], threshold=1.0) == Prediction(best.name, (), (), ())
    assert predictor(pictures, threshold=0.0) == predictor(pictures)
    with pytest.raises(UsageError, match="must be a probability, from 0 to 1"):
        predictor(pictures[0], threshold=float("nan"))


class Watched(Sequence[Path]):
    """Pictures that count how many of them have been asked for."""

    def __init__(self, pictures: list[Path]) -> None:
        self.pictures, self.asked = pictures, 0

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: Any) -> Any:
        picture = self.pictures[index]
        self.asked += 1
        return picture


def reading() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("depthwise-read")]


def test_one_batch_is_read_ahead_of_a_list_and_none_of_an_iterator(
    predictor: Predictor, pictures: list[Path]
) -> None:
    watched = Watched(pictures * 4)
    answers = predictor.stream(watched, batch_size=3)
    for done in range(1, len(watched) + 1):
        next(answers)
        assert watched.asked == min(len(watched), 3 * ((done - 1) // 3 + 2))
    asked = []
    lazily = predictor.stream((asked.append(path) or path for path in pictures), batch_size=2)
    next(lazily)
    assert len(asked) == 2


def test_a_stream_that_is_left_early_leaves_no_threads(predictor: Predictor, pictures: list[Path]) -> None:
    answers = predictor.stream(pictures * 20, batch_size=4)
    next(answers)
    assert reading()
    answers.close()
    assert not reading()
    predictor(pictures)
    assert not reading()

    def interrupted() -> Iterator[Path]:
        yield from pictures
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predictor(interrupted(), batch_size=2)
    assert not reading()


def test_one_image_needs_no_thread(
    predictor: Predictor, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depthwise.infer.streaming.ThreadPoolExecutor", None)
    assert predictor(pictures[0]).classes


@pytest.mark.parametrize("option", [{"topk": 0}, {"batch_size": 0}, {"batch_size": -1}], ids=str)
def test_numbers_below_one_are_refused(
    predictor: Predictor, pictures: list[Path], option: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match="must be at least 1"):
        predictor(pictures, **option)


def test_an_image_without_a_file_may_be_animated(predictor: Predictor) -> None:
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "gif", save_all=True, append_images=frames[1:])
    assert predictor(file.getvalue()).probabilities == predictor(frames[0]).probabilities
