"""Images to tokens."""

from __future__ import annotations

from torch import Tensor, nn

from transmamba.layers.checks import positive_int


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to a token: one strided convolution, ``proj``.

    ``(batch, in_channels, image_size, image_size)`` becomes ``(batch, h * w, d_model)`` in raster order, with
    ``(h, w) = grid``. With ``stride < patch_size`` the patches overlap, as in Vim's fine-tuned models.

    Raises:
        ValueError: A size is not positive, the patch is larger than the image, or ``forward`` gets another image
            shape than the one declared.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        in_channels: int,
        d_model: int,
        stride: int | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive_int(image_size=image_size, patch_size=patch_size, in_channels=in_channels, d_model=d_model)
        self.image_size, self.patch_size, self.in_channels = image_size, patch_size, in_channels
        self.stride = patch_size if stride is None else stride
        positive_int(stride=self.stride)
        if patch_size > image_size:
            raise ValueError(f"patch_size must be at most image_size ({image_size}), got {patch_size}")
        side = (image_size - patch_size) // self.stride + 1
        self.grid = (side, side)
        self.proj = nn.Conv2d(in_channels, d_model, patch_size, stride=self.stride, device=device, dtype=dtype)

    def forward(self, images: Tensor) -> Tensor:
        expected = (self.in_channels, self.image_size, self.image_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images must have shape (batch, {', '.join(map(str, expected))}), got {tuple(images.shape)}"
            )
        return self.proj(images).flatten(2).transpose(1, 2)
