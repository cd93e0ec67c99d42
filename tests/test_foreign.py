import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from workbench.models import foreign


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="needs dnn-workbench[hf]")


@pytest.fixture(scope="module")
def vit(transformers):
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "owl"},
    )
    return transformers.ViTForImageClassification(config).eval()


@pytest.fixture
def vit_folder(vit, tmp_path):
    vit.save_pretrained(tmp_path)
    write_preprocessor(tmp_path)
    return tmp_path


def write_preprocessor(folder, **changes):
    facts = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "size": {"height": 16, "width": 16},
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(facts | changes))


@pytest.mark.parametrize(("package", "load"), [("transformers", "hf"), ("timm", "timm")])
def test_a_missing_extra_says_what_to_install(package, load, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    read = {"hf": foreign.huggingface, "timm": foreign.timm}[load]
    with pytest.raises(ImportError, match=rf"pip install dnn-workbench\[{load}\]"):
        read("some/model")


def test_an_unfit_torchvision_is_named(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(foreign.importlib, "import_module", broken)
    with pytest.raises(ImportError, match="Install the torchvision that fits torch"):
        foreign.timm("resnet18")


@pytest.mark.parametrize(
    ("facts", "image_size", "expected"),
    [
        ({"size": {"height": 20, "width": 30}}, 8, (20, 30)),
        ({"size": {}, "do_center_crop": True, "crop_size": {"height": 9, "width": 7}}, 8, (9, 7)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 9, "width": 7}}, 8, (256, 256)),
        (None, 8, (8, 8)),
        (None, [8, 9], (8, 9)),
        (None, None, (224, 224)),
    ],
)
def test_size(facts, image_size, expected):
    processor = None if facts is None else SimpleNamespace(**facts)
    assert foreign.size(processor, SimpleNamespace(image_size=image_size)) == expected


def test_vit_gives_the_logits_of_transformers(vit, vit_folder):
    (vit_folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    found = foreign.huggingface(vit_folder)
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), vit(pixel_values=x).logits, rtol=0, atol=1e-6)
    assert found.classes == ("cat", "dog", "owl")
    assert found.input_shape == (3, 16, 16)
    assert found.mean == pytest.approx((0.5, 0.4, 0.3))
    assert found.std == pytest.approx((0.2, 0.3, 0.4))
    assert found.licence == "apache-2.0"
    assert not found.module.training
    x.requires_grad_()
    found.module(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "change", [{"rescale_factor": 1 / 127.5}, {"do_rescale": False}, {"include_top": True}]
)
def test_a_processor_that_does_more_than_mean_and_std_is_refused(vit_folder, change):
    write_preprocessor(vit_folder, **change)
    with pytest.raises(ValueError, match=r"prepares pixels by more than mean.*models\.wrap"):
        foreign.huggingface(vit_folder)


def test_a_resnet_without_a_preprocessor_warns(transformers, tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    resnet = transformers.ResNetForImageClassification(config).eval()
    resnet.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="does not say how to normalise"):
        found = foreign.huggingface(str(tmp_path))
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found.module(x), resnet(pixel_values=x).logits)
    assert (found.mean, found.std, found.licence) == (None, None, None)
    assert found.input_shape == (3, 224, 224)
    assert found.classes == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_pickled_weights_are_refused(vit, vit_folder):
    (vit_folder / "model.safetensors").unlink()
    torch.save(vit.state_dict(), vit_folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights are refused"):
        foreign.huggingface(vit_folder)


def test_a_network_without_a_trained_head_is_refused(transformers, vit, tmp_path):
    transformers.ViTModel(vit.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks the weights classifier\.bias"):
        foreign.huggingface(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_damaged_folder_is_a_value_error(vit_folder, file):
    (vit_folder / file).write_text("{")
    with pytest.raises(ValueError, match=str(vit_folder)):
        foreign.huggingface(vit_folder)


def test_offline_and_not_cached_is_said_at_once(transformers, monkeypatch, tmp_path):
    import huggingface_hub

    fetch = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **options: fetch(name, cache_dir=tmp_path, local_files_only=True, **options),
    )
    with pytest.raises(ConnectionError, match="owner/model is not in the cache"):
        foreign.huggingface("owner/model")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        foreign.huggingface(tmp_path / "nowhere")


@pytest.fixture
def fake_timm(monkeypatch, tmp_path):
    """The part of timm that we use, for timm needs a torchvision that fits torch."""
    from safetensors.torch import save_file

    weights = {"weight": torch.ones(4, 12), "bias": torch.arange(4.0)}
    save_file(weights, tmp_path / "model.safetensors")
    cfg = SimpleNamespace(hf_hub_id=str(tmp_path), license="mit")

    def create_model(name, pretrained, pretrained_cfg_overlay):
        model = nn.Linear(12, 4)
        model.load_state_dict(pretrained_cfg_overlay["state_dict"])
        model.num_classes = 4
        return model

    library = SimpleNamespace(
        is_model=lambda name: name.startswith("tiny"),
        list_models=lambda pretrained: ["tiny_net"],
        models=SimpleNamespace(
            is_model_pretrained=lambda name: True, get_pretrained_cfg=lambda name: cfg
        ),
        create_model=create_model,
        data=SimpleNamespace(
            resolve_model_data_config=lambda model: {
                "input_size": (3, 2, 2),
                "mean": (0.5, 0.5, 0.5),
                "std": (0.2, 0.2, 0.2),
            },
            infer_imagenet_subset=lambda model: None,
        ),
    )
    monkeypatch.setitem(sys.modules, "timm", library)
    return tmp_path


def test_timm_models_come_with_their_facts(fake_timm):
    found = foreign.timm("tiny_net")
    assert torch.equal(found.module(torch.zeros(1, 12)), torch.arange(4.0)[None])
    assert found.classes == ("0", "1", "2", "3")
    assert (found.input_shape, found.licence) == ((3, 2, 2), "mit")
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def test_timm_names_are_suggested_and_pickles_refused(fake_timm):
    with pytest.raises(ValueError, match="Did you mean 'tiny_net'"):
        foreign.timm("a_tiny_net")
    (fake_timm / "model.safetensors").unlink()
    (fake_timm / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pickled weights are refused"):
        foreign.timm("tiny_net")
