"""VGG-19 from a file of MatConvNet: its layout, and files that hold something else."""

import io
import zipfile

import numpy as np
import pytest
import torch
from scipy.io import savemat

from l2o_splat.weights import WeightsError
from l2o_splat.weights.matconvnet import read_vgg19
from tests.vgg import GAINS, MEAN, layers, write_vgg19


def test_filters_correlate_rows_first_and_channels_are_red_green_blue(tmp_path):
    """The first filter takes the pixel below from green, the second one the pixel to the right from blue."""

    def change(index, filters, biases):
        if index == 0:
            filters[:] = 0
            filters[2, 1, 1, 0], filters[1, 2, 2, 1], biases[2] = 1, 1, 7
        return filters, biases

    network = read_vgg19(write_vgg19(tmp_path / "vgg.mat", layers(change)))
    image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    grey = (255 * image - torch.tensor(MEAN)).relu()
    tap = GAINS[1] * torch.stack([grey[0, 5, 4, 1], grey[0, 4, 5, 2], torch.tensor(7.0)])
    torch.testing.assert_close(network(image)[0][0, :3, 4, 4], tap)


def test_files_from_before_filters_and_biases_shared_a_field_are_read(tmp_path):
    old = [
        layer | {"filters": layer["weights"][0, 0], "biases": layer["weights"][0, 1]} if "weights" in layer else layer
        for layer in layers()
    ]
    for layer in old:
        layer.pop("weights", None)
    new = read_vgg19(write_vgg19(tmp_path / "new.mat", layers()))
    read = read_vgg19(write_vgg19(tmp_path / "old.mat", old))
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, read.state_dict()[name])


def torch_file(path):
    content = io.BytesIO()
    torch.save({"features.0.weight": torch.zeros(2)}, content)
    path.write_bytes(content.getvalue())


def zip_named_mat(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "0")


def cut(path):
    path.write_bytes(write_vgg19(path, layers()).read_bytes()[:5000])


def narrow(index, filters, biases):
    return (filters[..., :-1], biases[:-1]) if index == 2 else (filters, biases)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "There is no file"),
        (torch_file, "torchvision's VGG-19 was trained apart and takes other inputs"),
        (zip_named_mat, "torchvision's VGG-19"),
        (lambda path: path.write_text("no MATLAB"), "cannot be read as a MATLAB file"),
        (cut, "cannot be read as a MATLAB file"),
        (lambda path: savemat(path, {"other": np.zeros(3)}), "has 0 convolutions where VGG-19 has 14"),
        (lambda path: write_vgg19(path, layers()[:20]), "convolutions where VGG-19 has 14"),
        (lambda path: write_vgg19(path, layers(narrow)), r"another network: Tensor 'convolutions\.2.* has shape"),
        (lambda path: write_vgg19(path, layers(), MEAN[::-1]), r"inputs have the mean \[103\.94, 116\.78, 123\.68\]"),
    ],
    ids=["missing", "torch", "zip", "text", "cut", "empty", "short", "narrow", "blue first"],
)
def test_other_files_are_refused_in_one_sentence_that_names_the_right_one(write, message, tmp_path):
    path = tmp_path / "vgg.mat"
    write(path)
    with pytest.raises(WeightsError, match=f"{message}.*name imagenet-vgg-verydeep-19.mat of MatConvNet") as caught:
        read_vgg19(path)
    assert "\n" not in str(caught.value)
