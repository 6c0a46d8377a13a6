import pytest
import torch

from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.views import PinholeCameras, StoredPhotographs, Views, opencv_from_opengl, opengl_from_opencv


def random_poses(v: int) -> torch.Tensor:
    rotation, _ = torch.linalg.qr(torch.randn(v, 3, 3, dtype=torch.float64))
    rotation *= torch.linalg.det(rotation)[:, None, None]
    return torch.cat([rotation, torch.randn(v, 3, 1, dtype=torch.float64)], dim=2)


def test_an_opengl_camera_looks_along_minus_z_and_an_opencv_one_along_plus_z():
    # At (0, 0, 5), looking at the origin, up is +y: the identity rotation in OpenGL axes.
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = 5
    viewmat = opencv_from_opengl(pose)[0]
    in_front, above = torch.tensor([0.0, 0, 0, 1]), torch.tensor([0.0, 1, 0, 1])
    torch.testing.assert_close((viewmat @ in_front)[:3], torch.tensor([0.0, 0, 5]))
    torch.testing.assert_close((viewmat @ above)[:3], torch.tensor([0.0, -1, 5]))  # y points down


def test_conversions_between_camera_conventions_are_inverse():
    poses = random_poses(6)
    torch.testing.assert_close(opengl_from_opencv(opencv_from_opengl(poses)), poses)


def test_camera_centres():
    poses = random_poses(4)
    cameras = PinholeCameras(opencv_from_opengl(poses), torch.eye(3, dtype=torch.float64).repeat(4, 1, 1), 8, 6)
    torch.testing.assert_close(cameras.centres, poses[:, :, 3])


def some_cameras(v: int, dtype: torch.dtype = torch.float32) -> PinholeCameras:
    torch.manual_seed(v)
    K = torch.tensor([[50.0, 0, 31], [0, 55, 25], [0, 0, 1]], dtype=dtype)
    return PinholeCameras(opencv_from_opengl(random_poses(v).to(dtype)), K.repeat(v, 1, 1), width=64, height=48)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_is_the_pinhole_formula_bit_for_bit(dtype):
    cameras = some_cameras(5, dtype)
    points = 3 * torch.randn(400, 3, dtype=dtype)
    pixels, depth = cameras.project(points)
    viewmats = cameras.viewmats
    local = torch.einsum("vij,pj->vpi", viewmats[:, :3, :3], points) + viewmats[:, None, :3, 3]
    by_hand = torch.einsum("vij,vpj->vpi", cameras.Ks, local)[..., :2] / local[..., 2:]
    in_front = depth > 0
    assert 0.3 < in_front.float().mean() < 0.7
    assert torch.equal(depth, local[..., 2]) and torch.equal(pixels[in_front], by_hand[in_front])
    u, v = by_hand.unbind(dim=2)
    within = in_front & (u >= 0) & (u < 64) & (v >= 0) & (v < 48)
    assert within.sum() > 50 and torch.equal(cameras.inside(pixels, depth), within)
    # Depths alone: the same points for all cameras, and each camera's own.
    assert torch.equal(cameras.depths(points), viewmats[:, 2, :3] @ points.mT + viewmats[:, 2, 3][:, None])
    view = torch.arange(5).repeat_interleave(80)
    own = (viewmats[view, 2, :3] * points).sum(dim=1) + viewmats[view, 2, 3]
    assert torch.equal(cameras.depths(points.view(5, 80, 3)).flatten(), own)
    torch.testing.assert_close(cameras.depths(points), depth)
    for found, expected in zip(cameras.project(points.expand(5, -1, -1)), (pixels, depth), strict=True):
        torch.testing.assert_close(found[within], expected[within], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unprojection_is_the_inverse_of_projection(dtype):
    cameras = some_cameras(4, dtype)
    pixels, depth = torch.rand(100, 2, dtype=dtype) * 48, torch.rand(1, 100, dtype=dtype) * 3 + 0.5
    points = cameras.unproject(pixels, depth)
    assert points.shape == (4, 100, 3)
    found, found_depth = cameras.project(points)
    torch.testing.assert_close(found, pixels.expand(4, -1, -1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found_depth, depth.expand(4, -1), rtol=1e-4, atol=1e-4)
    # Bit for bit, one camera per pixel.
    view = torch.randint(4, (100,))
    one_each = cameras[view].unproject(pixels[:, None], depth.T)[:, 0]
    rays = torch.cat([pixels, torch.ones(100, 1, dtype=dtype)], dim=1)
    local = torch.einsum("nij,nj->ni", torch.linalg.inv(cameras.Ks)[view], rays) * depth.T
    viewmats = cameras.viewmats[view]
    assert torch.equal(one_each, torch.einsum("nji,nj->ni", viewmats[:, :3, :3], local - viewmats[:, :3, 3]))


def test_an_image_holds_its_first_edges_but_not_its_last_ones():
    K = torch.tensor([[[16.0, 0, 8], [0, 16, 4], [0, 0, 1]]])
    camera = PinholeCameras(torch.eye(4)[None], K, width=16, height=8)
    corners = torch.tensor([[-0.5, -0.25, 1.0], [0.5, 0.0, 1.0], [0.0, 0.25, 1.0], [0.4375, 0.1875, 1.0]])
    pixels, depth = camera.project(corners)
    assert pixels[0].tolist() == [[0.0, 0.0], [16.0, 4.0], [8.0, 8.0], [15.0, 7.0]]
    assert camera.inside(pixels, depth).tolist() == [[True, False, False, True]]


def test_points_that_are_not_in_front_have_finite_pixels_and_are_never_inside():
    K = torch.tensor([[[16.0, 0, 8], [0, 16, 4], [0, 0, 1]]])
    camera = PinholeCameras(torch.eye(4)[None], K, width=16, height=8)
    points = torch.tensor([[0.0, 0, 0], [1.0, 2, 0], [0.0, 0, -3], [100.0, -100, -1e3]])
    pixels, depth = camera.project(points)
    assert pixels.isfinite().all() and not camera.inside(pixels, depth).any()
    # Not even where the clamped depth brings them to the middle of the image.
    assert not camera.inside(torch.full((1, 4, 2), 2.0), depth).any()


def test_views_are_taken_and_moved_as_a_whole():
    cameras = some_cameras(4)
    views = Views(cameras, torch.rand(4, 48, 64, 3), torch.rand(4, 48, 64, 1).round())
    for index in ([3, 1], torch.tensor([3, 1]), slice(1, 3)):
        taken = views[index]
        assert torch.equal(taken.images, views.images[index]) and torch.equal(taken.masks, views.masks[index])
        assert torch.equal(taken.cameras.viewmats, cameras.viewmats[index]) and len(taken) == 2
    assert Views(cameras, views.images)[[0]].masks is None
    cast = views.to(torch.float64)
    assert {cast.images.dtype, cast.masks.dtype, cast.cameras.Ks.dtype} == {torch.float64}
    assert torch.equal(cast.images.float(), views.images)


def test_a_mirrored_camera_sees_the_mirrored_scene_left_to_right():
    capture = generate(2, ProceduralOptions(num_views=4, width=32, height=24, num_points=200))
    views, points = capture.views.mirrored(), capture.points.mirrored()
    pixels, depth = capture.views.cameras.project(capture.points.xyz)
    mirrored, mirrored_depth = views.cameras.project(points.xyz)
    front = depth > 0
    torch.testing.assert_close(mirrored_depth, depth)
    torch.testing.assert_close(mirrored[front][:, 0], 32 - pixels[front][:, 0], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(mirrored[front][:, 1], pixels[front][:, 1], rtol=1e-4, atol=1e-2)
    assert torch.equal(views.images, capture.views.images.flip(2))
    assert torch.linalg.det(views.cameras.viewmats[:, :3, :3]) == pytest.approx(torch.ones(4), abs=1e-4)
    masked = Views(capture.views.cameras, capture.views.images, capture.views.images[..., :1]).mirrored()
    assert torch.equal(masked.masks, capture.views.images[..., :1].flip(2))


def test_shapes_that_do_not_fit_are_refused():
    cameras = PinholeCameras(torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1), width=8, height=6)
    assert len(Views(cameras, torch.zeros(2, 6, 8, 3))) == 2
    with pytest.raises(ValueError, match="images have shape"):
        Views(cameras, torch.zeros(2, 8, 6, 3))
    with pytest.raises(ValueError, match="masks have shape"):
        Views(cameras, torch.zeros(2, 6, 8, 3), torch.zeros(2, 6, 8, 3))
    with pytest.raises(ValueError, match="at least 1 pixel"):
        PinholeCameras(torch.eye(4)[None], torch.eye(3)[None], 0, 6)
    with pytest.raises(ValueError, match="are needed"):
        PinholeCameras(torch.eye(4)[None], torch.eye(3).repeat(2, 1, 1), 8, 6)


def stored_photographs(channels: int = 3, masked: bool = True) -> StoredPhotographs:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(256, (3, 48, 64, channels), generator=generator, dtype=torch.uint8)
    masks = list(torch.rand(3, 48, 64, 1, generator=generator) > 0.3) if masked else None
    return StoredPhotographs(some_cameras(3), list(stored), masks, torch.tensor([0.25, 0.5, 1.0]))


def test_every_stored_value_is_the_nearest_float_to_its_255th():
    stored = torch.arange(256, dtype=torch.uint8).repeat(3)[: 48 * 16].reshape(16, 16, 3)
    cameras = PinholeCameras(torch.eye(4)[None], torch.eye(3)[None], 16, 16)
    image, mask = StoredPhotographs(cameras, [stored], None, torch.zeros(3)).photograph(0)
    assert mask is None
    assert torch.equal(image, (stored.double() / 255).float())


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("channels", [3, 4])
def test_stored_photographs_one_by_one_are_those_of_their_views(channels, masked):
    photographs = stored_photographs(channels, masked)
    views = photographs.views()
    assert len(views) == len(photographs) == 3 and views.views() is views
    for v in range(3):
        for found, expected in zip(photographs.photograph(v), views.photograph(v), strict=True):
            assert found is expected is None or found.equal(expected)
    assert (views.masks is None) != masked


def test_transparent_pixels_show_the_background_and_opaque_ones_do_not():
    photographs = stored_photographs(4)
    photographs.stored[1][..., 3] = 255
    photographs.stored[2][..., 3] = 0
    assert torch.equal(photographs.photograph(1)[0], photographs.stored[1][..., :3].float() / 255)
    assert torch.equal(photographs.photograph(2)[0], photographs.background.expand(48, 64, 3))


def test_there_is_one_photograph_for_each_camera():
    with pytest.raises(ValueError, match="2 photographs of 3 cameras"):
        StoredPhotographs(some_cameras(3), list(torch.zeros(2, 48, 64, 3)), None, torch.zeros(3))
