# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from kdiff.errors import KdiffError
from kdiff.exports import Export, read_symvers


def symvers(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "Module.symvers"
    path.write_text(text)
    return path


def test_every_column_of_a_line_is_read(tmp_path: Path) -> None:
    path = symvers(
        tmp_path,
        "0x4c9d28b0\tphys_base\tvmlinux\tEXPORT_SYMBOL\t\n"
        "0x00000001\tdma_buf_fd\tdrivers/dma-buf/dma-heap\tEXPORT_SYMBOL_GPL\tDMA_BUF\n",
    )
    assert read_symvers(path) == {
        "phys_base": Export("phys_base", 0x4C9D28B0, "vmlinux", gpl=False, namespace=""),
        "dma_buf_fd": Export("dma_buf_fd", 1, "dma_heap", gpl=True, namespace="DMA_BUF"),
    }


def test_a_line_without_a_namespace_column_has_no_namespace(tmp_path: Path) -> None:
    path = symvers(tmp_path, "0x4c9d28b0\tphys_base\tvmlinux\tEXPORT_SYMBOL\n")
    assert read_symvers(path)["phys_base"].namespace == ""


@pytest.mark.parametrize(
    "line",
    [
        "0x4c9d28b0 phys_base vmlinux EXPORT_SYMBOL",
        "crc\tphys_base\tvmlinux\tEXPORT_SYMBOL\t",
        "0x4c9d28b0\tdma_buf_fd\tDMA_BUF\tvmlinux\tEXPORT_SYMBOL",
        "0x1\ta\tvmlinux\tEXPORT_SYMBOL\tNS\tmore",
    ],
)
def test_a_line_of_another_shape_is_an_error_that_names_the_line(tmp_path: Path, line: str) -> None:
    path = symvers(tmp_path, f"0x4c9d28b0\tphys_base\tvmlinux\tEXPORT_SYMBOL\t\n{line}\n")
    with pytest.raises(KdiffError) as caught:
        read_symvers(path)
    assert caught.value.key == "exports.malformed"
    assert caught.value.place == f"{path}:2"


def test_a_missing_file_is_an_error_that_tells_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        read_symvers(tmp_path / "Module.symvers")
    assert caught.value.key == "exports.unreadable"
    assert "headers" in caught.value.remedy
