"""A module in another form says nearly what it says as the reference, which stays as it is."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.image.conv import Classifier, ConvNet, ResidualNet
from tgt_ray.teacher.forms import making
from tgt_ray.teacher.forms.making import InForm, NoSuchForm, Says, check_there, folded, labels_in


def trained(module: nn.Module) -> nn.Module:
    """Give batch norms statistics that matter."""
    torch.manual_seed(0)
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
            each.weight.data.uniform_(0.5, 2)
    return module.eval().requires_grad_(False)


def norms(module: nn.Module) -> int:
    return sum(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in module.modules())


@pytest.fixture
def labeler():
    return trained(Classifier(ResidualNet(1, (4, 6, 8)), 5))


IMAGES = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))


class Shared(nn.Module):
    """One convolution is called twice, the maps of another one are used twice, and one norm follows nothing."""

    def __init__(self):
        super().__init__()
        self.twice, self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.skipped, self.third, self.alone = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def forward(self, maps):
        maps = self.second(self.twice(self.first(self.twice(self.alone(maps)))))
        again = self.skipped(maps)
        return (self.third(again) + again,)


class Branching(nn.Module):
    """Can't be traced as a whole, since it looks at values; its parts can."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 2, 2), nn.BatchNorm2d(2))

    def forward(self, maps):
        return (self.part(maps if maps.mean() > 0 else -maps),)


def with_activation() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), BatchNormAct2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


def test_batch_norms_are_folded_and_the_reference_stays(labeler):
    before = copy.deepcopy(labeler.state_dict())
    assert norms(labeler) == 5 and norms(folded(Says(labeler), IMAGES)) == 0
    said, reference = labels_in("folded", labeler)(IMAGES), labeler(IMAGES)
    torch.testing.assert_close(said.logits, reference.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(said.embedding, reference.embedding, rtol=1e-4, atol=1e-4)
    for name, value in labeler.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("make", [Branching, with_activation])
def test_parts_and_norms_with_activations_are_folded(make):
    module = trained(make())
    changed = folded(module, IMAGES)
    assert norms(changed) == 0 and norms(module) == 2
    for own, other in zip(changed(IMAGES), module(IMAGES), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_a_norm_stays_where_its_convolution_has_other_users():
    with pytest.raises(NoSuchForm, match="no batch norm"):
        folded(trained(Shared()), IMAGES)


def test_bfloat16_gives_float32_and_leaves_the_weights(labeler):
    said, reference = labels_in("bfloat16", labeler)(IMAGES), labeler(IMAGES)
    assert said.logits.dtype == said.embedding.dtype == torch.float32
    assert {each.dtype for each in labeler.parameters()} == {torch.float32}
    assert not torch.equal(said.logits, reference.logits)
    torch.testing.assert_close(said.logits, reference.logits, rtol=0.05, atol=0.05)


def test_weights_in_bfloat16_say_what_autocast_alone_says(labeler):
    with torch.autocast("cpu", torch.bfloat16):
        alone = labeler(IMAGES).logits.float()
    assert torch.equal(labels_in("bfloat16", labeler)(IMAGES).logits, alone)


def test_a_form_has_no_gradients_and_draws_nothing(labeler, monkeypatch):
    monkeypatch.setitem(making.STEPS, "folded", lambda module, example: (torch.rand(3), folded(module, example))[1])
    torch.manual_seed(3)
    assert not labels_in("folded", labeler)(IMAGES.clone().requires_grad_()).logits.requires_grad
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize(
    ("form", "rows", "reason"),
    [
        ("folded", IMAGES, "no batch norm that follows"),
        ("compiled", torch.zeros(2, 9, dtype=torch.uint8), "tokens of texts"),
        ("openvino", torch.zeros(2, 9, dtype=torch.uint8), "for images"),
    ],
)
def test_a_form_that_a_model_does_not_have_says_why(form, rows, reason):
    with pytest.raises(NoSuchForm, match=reason):
        InForm(form, nn.Flatten())(rows)


def test_large_models_are_not_compiled_nor_any_without_a_compiler(monkeypatch):
    large = nn.Sequential(*[nn.Linear(2, 2) for _ in range(making.MOST_COMPILED + 1)])
    monkeypatch.setattr(making.shutil, "which", lambda name: name)
    with pytest.raises(NoSuchForm, match="21 layers"):
        InForm("compiled", large)(torch.zeros(1, 2))
    monkeypatch.setattr(making.shutil, "which", lambda name: None)
    with pytest.raises(NoSuchForm, match=r"no C\+\+ compiler"):
        InForm("compiled", nn.Linear(2, 2))(torch.zeros(1, 2))


def test_a_machine_that_lacks_a_library_refuses_its_form(monkeypatch):
    monkeypatch.setattr(making.importlib.util, "find_spec", lambda name: None)
    check_there("folded+bfloat16", "labeler")
    with pytest.raises(ConfigError, match=r"teacher.run_as: fast, and the labeler .* 'openvino'.* not installed"):
        check_there("openvino", "labeler")


def test_openvino_says_what_torch_says(labeler):
    pytest.importorskip("openvino")
    run = labels_in("openvino", labeler)
    first = run(IMAGES)
    reference = labeler(IMAGES)
    run(IMAGES[:2] * 0)  # another number of rows, whose outputs must not change the first ones
    torch.testing.assert_close(first.logits, reference.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.embedding, reference.embedding, rtol=1e-4, atol=1e-4)


def test_the_start_of_a_library_is_measured_once(monkeypatch):
    begun = []
    monkeypatch.setitem(making.STEPS, "openvino", lambda module, example: (begun.append(module), module)[1])
    making.seconds_to_import.cache_clear()
    assert (
        making.seconds_to_import("openvino")
        == making.seconds_to_import("openvino")
        > 0
        == making.seconds_to_import("folded")
    )
    assert len(begun) == 1
    making.seconds_to_import.cache_clear()


@pytest.mark.slow
def test_a_compiled_model_says_what_it_said():
    if making.LACKING["compiled"]() is not None:
        pytest.skip("no C++ compiler")
    labeler = trained(Classifier(ConvNet(1, (4,), "pool", grid=2), 5))
    run = labels_in("compiled", labeler)
    for rows in (IMAGES, IMAGES[:3]):
        torch.testing.assert_close(run(rows).logits, labeler(rows).logits, rtol=1e-4, atol=1e-4)
