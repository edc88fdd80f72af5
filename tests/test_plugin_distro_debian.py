# SPDX-License-Identifier: Apache-2.0
"""The plugin with the real apt and dpkg, against a small archive of packages made here."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from kdiff_distro_debian import Debian, apt, layout

from kdiff.errors import KdiffError

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")

HEADERS_MAKEFILE = "include /usr/src/linux-headers-{number}-common/Makefile\n"


def quiet(text: str) -> None:
    pass


class Archive:
    """A package archive on disk, with an apt of its own that knows nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pool = root / "pool"
        self.pool.mkdir()
        self.stanzas: list[str] = []
        for folder in ("state/lists/partial", "cache/archives/partial", "etc/parts"):
            (root / folder).mkdir(parents=True)
        (root / "state/status").touch()
        (root / "etc/sources.list").write_text(f"deb [trusted=yes] file:{self.pool} ./\n")
        (root / "apt.conf").write_text(
            f'Dir::State "{root}/state"; Dir::State::status "{root}/state/status";\n'
            f'Dir::Cache "{root}/cache"; Dir::Etc "{root}/etc"; Dir::Etc::parts "{root}/etc/parts";\n'
            f'Dir::Etc::sourcelist "{root}/etc/sources.list"; Dir::Etc::sourceparts "{root}/etc/parts";\n'
            'APT::Sandbox::User "root"; Acquire::Languages "none";\n'
        )

    def add(self, name: str, version: str, files: dict[str, bytes], depends: str = "") -> None:
        tree = self.root / "build"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: {apt.architecture()}\n"
        control += "Maintainer: nobody <nobody@example.org>\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN/control").write_text(f"{control}Description: a test\n")
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
        deb = self.pool / f"{name}_{version}_{apt.architecture()}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, deb], check=True, capture_output=True)
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        where = f"Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"
        self.stanzas.append(f"{control}{where}Description: a test\n")

    def publish(self) -> None:
        (self.pool / "Packages").write_text("\n".join(self.stanzas))
        subprocess.run(["apt-get", "update", "-qq"], check=True)

    def add_kernel(self, number: str, version: str, kbuild: str = "") -> None:
        """Add all packages of one kernel; without `kbuild` its own version of linux-kbuild, too."""
        abi = f"{number}-{apt.architecture()}"
        self.add(
            f"linux-image-{abi}",
            version,
            {f"boot/vmlinuz-{abi}": b"image", f"lib/modules/{abi}/modules.order": b""},
            "kmod, linux-base (>= 4.3~), initramfs-tools | linux-initramfs-tool",
        )
        self.add(
            f"linux-headers-{abi}",
            version,
            {
                f"usr/src/linux-headers-{abi}/.config": b"CONFIG_LIVEPATCH=y\n",
                f"usr/src/linux-headers-{abi}/Makefile": HEADERS_MAKEFILE.format(number=number).encode(),
            },
            f"linux-headers-{number}-common (= {version}), linux-kbuild-6.1 (>= {version}), gcc-12",
        )
        common = b"all:\n\t@echo headers work\n"
        self.add(
            f"linux-headers-{number}-common",
            version,
            {f"usr/src/linux-headers-{number}-common/Makefile": common},
        )
        if not kbuild:
            self.add("linux-kbuild-6.1", version, {"usr/lib/linux-kbuild-6.1/version": version.encode()})

    def add_source(self, version: str) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:xz") as tarball:
            info = tarfile.TarInfo("linux-source-6.1/Makefile")
            info.size = len(version)
            tarball.addfile(info, io.BytesIO(version.encode()))
        self.add("linux-source-6.1", version, {"usr/src/linux-source-6.1.tar.xz": data.getvalue()})


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    (tmp_path / "archive").mkdir()
    made = Archive(tmp_path / "archive")
    monkeypatch.setenv("APT_CONFIG", str(made.root / "apt.conf"))
    return made


@pytest.fixture
def abi() -> str:
    return f"6.1.0-56-{apt.architecture()}"


def full(archive: Archive) -> None:
    archive.add_kernel("6.1.0-56", "6.1.192-2")
    archive.add_source("6.1.192-2")
    archive.add_source("6.1.176-1")
    archive.publish()


def test_setup_leaves_config_source_and_image(archive: Archive, abi: str, tmp_path: Path) -> None:
    full(archive)
    setup = Debian().setup(abi, tmp_path / "dest", quiet)
    assert setup.package_version == "6.1.192-2"
    assert (setup.source / "Makefile").read_text() == "6.1.192-2"
    assert (setup.config / ".config").read_text() == "CONFIG_LIVEPATCH=y\n"
    assert (setup.config / "flags").read_text() == ""
    assert (setup.config / "vmlinuz").read_bytes() == b"image"
    assert (setup.image / "vmlinuz").read_bytes() == b"image"
    assert (setup.image / "modules/modules.order").exists()


def test_the_directory_can_be_moved(archive: Archive, abi: str, tmp_path: Path) -> None:
    full(archive)
    Debian().setup(abi, tmp_path / "dest", quiet)
    moved = (tmp_path / "dest").rename(tmp_path / "moved")
    assert (moved / "config/vmlinuz").read_bytes() == b"image"
    made = subprocess.run(
        ["make", "-s", "-C", moved / "config/build"], capture_output=True, text=True, check=True
    )
    assert made.stdout == "headers work\n"


def test_a_second_setup_downloads_and_unpacks_nothing(archive: Archive, abi: str, tmp_path: Path) -> None:
    full(archive)
    said: list[str] = []
    first = Debian().setup(abi, tmp_path, said.append)
    assert said
    said.clear()
    assert Debian().setup(abi, tmp_path, said.append) == first
    assert said == []


def test_a_damaged_download_is_fetched_again(archive: Archive, abi: str, tmp_path: Path) -> None:
    full(archive)
    package = apt.known(f"linux-image-{abi}")[0]
    file = apt.download(package, tmp_path, quiet)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"?")
    assert apt.download(package, tmp_path, quiet).read_bytes() == whole


def test_an_interrupted_unpacking_starts_over(archive: Archive, abi: str, tmp_path: Path) -> None:
    full(archive)
    (tmp_path / "source.part").mkdir()
    (tmp_path / "source.part/Makefile").write_text("half")
    setup = Debian().setup(abi, tmp_path, quiet)
    assert (setup.source / "Makefile").read_text() == "6.1.192-2"
    assert not (tmp_path / "source.part").exists()


def test_a_source_of_another_version_will_not_do(archive: Archive, abi: str, tmp_path: Path) -> None:
    archive.add_kernel("6.1.0-56", "6.1.192-2")
    archive.add_source("6.1.192-1")
    archive.add_source("6.1.190-1")
    archive.publish()
    with pytest.raises(KdiffError) as caught:
        Debian().setup(abi, tmp_path, quiet)
    assert caught.value.key == "setup.package_version"
    assert "linux-source-6.1 6.1.192-2" in str(caught.value)
    assert "6.1.192-1, 6.1.190-1" in str(caught.value)


def test_kbuild_may_be_younger_but_the_nearest_is_taken(archive: Archive, abi: str, tmp_path: Path) -> None:
    archive.add_kernel("6.1.0-56", "6.1.192-2", kbuild="others")
    archive.add_source("6.1.192-2")
    for version in ("6.1.190-1", "6.1.195-1", "6.1.200-1"):
        archive.add("linux-kbuild-6.1", version, {"usr/lib/linux-kbuild-6.1/version": version.encode()})
    archive.publish()
    Debian().setup(abi, tmp_path, quiet)
    assert (tmp_path / "root/usr/lib/linux-kbuild-6.1/version").read_text() == "6.1.195-1"


def test_an_older_kbuild_alone_will_not_do(archive: Archive, abi: str, tmp_path: Path) -> None:
    archive.add_kernel("6.1.0-56", "6.1.192-2", kbuild="others")
    archive.add_source("6.1.192-2")
    archive.add("linux-kbuild-6.1", "6.1.190-1", {"usr/lib/linux-kbuild-6.1/version": b""})
    archive.publish()
    with pytest.raises(KdiffError) as caught:
        Debian().setup(abi, tmp_path, quiet)
    assert caught.value.key == "setup.package_version"


def test_the_newest_kernel_is_what_the_metapackage_stands_for(archive: Archive, abi: str) -> None:
    architecture = apt.architecture()
    for version, number in (("6.1.176-1", "6.1.0-50"), ("6.1.192-2", "6.1.0-56"), ("6.1.99-1", "6.1.0-9")):
        depends = f"linux-image-{number}-{architecture} (= {version})"
        archive.add(f"linux-image-{architecture}", version, {}, depends)
    archive.publish()
    assert Debian().newest() == abi


def test_only_what_apt_has_is_served(archive: Archive, abi: str) -> None:
    full(archive)
    assert Debian().serves(abi)
    assert not Debian().serves("6.1.0-55-nothing")


def test_an_unknown_kernel_is_an_error_that_names_the_known(
    archive: Archive, abi: str, tmp_path: Path
) -> None:
    full(archive)
    with pytest.raises(KdiffError) as caught:
        Debian().setup(f"6.1.0-1-{apt.architecture()}", tmp_path, quiet)
    assert caught.value.key == "setup.package"
    assert abi in str(caught.value)


def test_empty_package_lists_are_an_error_that_says_update(
    archive: Archive, abi: str, tmp_path: Path
) -> None:
    with pytest.raises(KdiffError) as caught:
        Debian().setup(abi, tmp_path, quiet)
    assert caught.value.key == "setup.package_lists"
    assert "apt-get update" in str(caught.value)


def test_a_package_that_is_gone_is_an_error(archive: Archive, abi: str, tmp_path: Path) -> None:
    full(archive)
    for file in archive.pool.glob("linux-source*"):
        file.unlink()
    with pytest.raises(KdiffError) as caught:
        Debian().setup(abi, tmp_path, quiet)
    assert caught.value.key == "setup.download"


@pytest.mark.skipif(os.geteuid() != 0, reason="the warning concerns root")
def test_root_is_not_bothered_with_apts_sandbox(
    archive: Archive, abi: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    full(archive)
    apt.download(apt.known(f"linux-image-{abi}")[0], tmp_path, quiet)
    assert capfd.readouterr().err == ""


def test_a_real_time_kernel_is_declined_when_its_patches_are_missing(
    archive: Archive, tmp_path: Path
) -> None:
    headers = tmp_path / "root/usr/src/linux-headers-x"
    headers.mkdir(parents=True)
    (headers / ".config").write_text("\nCONFIG_PREEMPT_RT=y\n")
    (tmp_path / "source/arch/x86").mkdir(parents=True)
    (tmp_path / "source/arch/x86/Kconfig").write_text("config X86\n")
    with pytest.raises(KdiffError) as caught:
        layout.arrange("x", "1", tmp_path)
    assert caught.value.key == "setup.real_time"
