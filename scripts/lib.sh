# Shared by the scripts beside it: where things are, what they say, and how a missing tool gets here.
# Sourced, never run. Works on Debian 12 and later, as root or as a user who may use sudo.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$repo/.cache
out=$repo/out
# Tools of administrators (depmod, mke2fs, sgdisk) live where a user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "this needs root and there is no sudo; run as root: $*"; fi
}

apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >&2; }

# Installs nothing but what is missing: need CMD=PACKAGE ... where CMD is a command or an absolute path.
need() {
  local pair missing=()
  for pair in "$@"; do present "${pair%%=*}" || missing+=("${pair#*=}"); done
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || die "missing: ${missing[*]} (named as Debian's packages), and there is no apt-get"
  say "installing ${missing[*]}"
  apt_install "${missing[@]}" || die "cannot install ${missing[*]}"
  hash -r
  for pair in "$@"; do present "${pair%%=*}" || die "${pair#*=} is installed, yet ${pair%%=*} is not there"; done
}

present() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null ;; esac; }

# Package lists may be absent (a container), stale (a stick from last year) or fine: the network is asked only
# when the lists at hand did not do.
apt_install() {
  local install=(install --no-install-recommends)
  compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null && apt_get "${install[@]}" "$@" && return
  apt_get update || say "apt-get update reported errors, going on with what it got"
  apt_get "${install[@]}" "$@" && return
  # A package of the same source taken from backports (qemu-utils, say) excludes its siblings of the release.
  # Such siblings, and no others, may go back to the release this machine runs.
  local siblings
  mapfile -t siblings < <(installed_siblings "$@")
  [ ${#siblings[@]} = 0 ] && return 1
  say "trying again with ${siblings[*]} from the machine's own release"
  apt_get "${install[@]}" --allow-downgrades "$@" "${siblings[@]}"
}

# Prints, as PACKAGE/CODENAME, the packages installed from backports that come from the same sources as the given ones.
installed_siblings() {
  local sources codename
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [ -n "$codename" ] || return 0
  sources=$(apt-cache show "$@" | awk '/^Package:/ { p = $2; s = p } /^Source:/ { s = $2 } /^$/ { print s } END { print s }')
  dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${source:Package} ${Version}\n' |
    awk -v wanted="$sources" -v codename="$codename" '
      BEGIN { n = split(wanted, w); for (i = 1; i <= n; i++) want[w[i]] = 1 }
      $1 ~ /^.i/ && ($3 in want) && $4 ~ /~bpo/ { print $2 "/" codename }'
}

# Rust as new as Cargo.toml asks for, and a C compiler for zstd and blake3. What is installed is used; else the
# distribution's own packages, whose newer build (kept for its browsers) ends in -web.
need_rust() {
  # Certificates: cargo fetches crates over HTTPS.
  need cc=gcc /usr/include/stdlib.h=libc6-dev /etc/ssl/certs/ca-certificates.crt=ca-certificates
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  local want have
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repo/Cargo.toml")
  have=$(cargo --version 2>/dev/null | awk '{ print $2 }') || true
  [ -n "$have" ] && dpkg --compare-versions "$have" ge "$want" && return
  [ -n "$have" ] || ! present cargo || die "cargo does not run: $(cargo --version 2>&1 | head -n 1)"
  [ -z "$have" ] || die "cargo is $have, $want or newer is needed: update it (rustup update), or remove it to get Debian's"
  packaged cargo "$want" || packaged cargo-web "$want" || apt_get update || true
  if packaged cargo "$want"; then need cargo=cargo rustc=rustc rustfmt=rustfmt cargo-clippy=rust-clippy
  elif packaged cargo-web "$want"; then need cargo=cargo-web rustc=rustc-web rustfmt=rustfmt-web cargo-clippy=rust-web-clippy
  else die "cargo $want or newer is needed and this release packages none: install it with rustup"; fi
}

# packaged NAME VERSION: could apt install NAME, at least as new as VERSION?
packaged() {
  local candidate
  candidate=$(apt-cache policy "$1" 2>/dev/null | awk '/Candidate:/ { print $2 }')
  [ -n "$candidate" ] && [ "$candidate" != "(none)" ] && dpkg --compare-versions "$candidate" ge "$2"
}

# musl where it can be used, else glibc; either way the program is linked static.
rust_target() {
  local musl=x86_64-unknown-linux-musl
  if [ -d "$(rustc --print sysroot)/lib/rustlib/$musl/lib" ] && command -v musl-gcc >/dev/null; then echo $musl
  else echo x86_64-unknown-linux-gnu; fi
}

# Prints QEMU's options for the processor. A /dev/kvm that opens proves nothing (inside some virtual machines the
# guest then hangs): KVM is used when this kernel was seen to start under it.
qemu_accel() {
  local seen
  if [ -w /dev/kvm ]; then
    seen=$(timeout 10 qemu-system-x86_64 -accel kvm -cpu host -m 256 -nodefaults -display none -serial stdio -no-reboot \
      -kernel "$1" -append 'console=ttyS0 panic=-1' 2>/dev/null </dev/null | tr -d '\0' | grep -m 1 'Linux version') || true
    [ -z "$seen" ] || { echo '-accel kvm -cpu host -smp 2'; return; }
  fi
  # One processor: with two, kernels under TCG were seen to stop with an int3 oops while patching their own code.
  echo '-accel tcg -cpu max -smp 1'
}

# Prints the machine's own Debian sources, as one-line entries for another suite or component. apt itself reads its files here:
# the index addresses it would fetch carry mirror and suite, whichever way they are written down.
sources_for() {
  local own=$1 suite=$2 component=$3 uri from
  apt-get update --print-uris | sed -n "s|^'\(.*\)/dists/\([^/]*\)/InRelease'.*|\1 \2|p" |
    while read -r uri from; do
      case $from in
        "$own" | stable | oldstable) echo "deb $(signed_by "$uri")$uri $suite $component" ;;
        "$own-updates" | "$own-security" | stable-updates | stable-security | oldstable-updates | oldstable-security)
          echo "deb $(signed_by "$uri")$uri $suite-${from##*-} $component" ;;
      esac
    done | sort -u
}

# Prints the option that names the keyring for a mirror: the one this machine gives it, else Debian's own.
signed_by() {
  local place=${1#*:} keyring
  place=${place#"${place%%[!/]*}"} # apt prints file:/x for file:///x
  keyring=$( {
    awk -v RS= -v place="$place" 'index($0, place) && match($0, /\nSigned-By:[ \t]*\/[^ \t\n]+/) {
      key = substr($0, RSTART, RLENGTH); sub(/.*:[ \t]*/, "", key); print key; exit }' /etc/apt/sources.list.d/*.sources
    sed -n "\|$place|s/.*signed-by=\(\/[^], ]*\).*/\1/p" /etc/apt/sources.list /etc/apt/sources.list.d/*.list
  } 2>/dev/null) || true
  keyring=${keyring%%$'\n'*}
  [ -n "$keyring" ] || keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  # Without either, apt goes by the keyrings it trusts for everything.
  [ ! -e "$keyring" ] || echo "[signed-by=$keyring] "
}

# apt_options FOLDER NAME: makes FOLDER, which has a sources.list, a state of apt's own, and puts into the array NAME the
# options that use it: nothing of the machine's own apt is read or changed.
apt_options() {
  local apt=$1
  local -n into=$2
  mkdir -p "$apt"/{lists,archives}/partial "$apt/empty"
  : >"$apt/status"
  into=(
    -q -o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt"
    -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/empty" -o "Dir::Etc::preferencesparts=$apt/empty"
    -o "Dir::Etc::preferences=$apt/none" -o APT::Architecture=amd64 -o APT::Architectures::=amd64
    # The download user of apt may not enter this folder.
    -o APT::Sandbox::User=root
    -o Acquire::Languages=none -o Acquire::PDiffs=false -o Acquire::Retries=3
    -o Acquire::AllowInsecureRepositories=false -o APT::Get::AllowUnauthenticated=false
  )
}

# The tools of HFS+ are in Debian's component non-free, which few machines name. Where apt does not offer them they come
# from there into a folder of the cache, and are not installed.
need_hfsprogs() {
  local own apt options=() new=$cache/hfsprogs.work
  PATH=$PATH:$cache/hfsprogs/sbin
  present mkfs.hfsplus && return
  if packaged hfsprogs 0; then need mkfs.hfsplus=hfsprogs; return; fi
  say "fetching hfsprogs from non-free"
  rm -rf "$new"
  mkdir -p "$new/apt"
  apt=$new/apt own=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  sources_for "$own" "$own" "main non-free" >"$apt/sources.list"
  apt_options "$apt" options
  apt-get "${options[@]}" update >"$apt/log" 2>&1 || true
  if ! (cd "$apt" && apt-get "${options[@]}" download hfsprogs >>"$apt/log" 2>&1); then
    cat "$apt/log" >&2
    die "apt offers no hfsprogs: install mkfs.hfsplus and fsck.hfsplus"
  fi
  for deb in "$apt"/hfsprogs*.deb; do dpkg-deb -x "$deb" "$new"; done
  rm -rf "$apt"
  mv -T "$new" "$cache/hfsprogs"
  present mkfs.hfsplus || die "hfsprogs holds no mkfs.hfsplus"
}

# What the demo makes a disk with, judges it with, and boots it in.
need_demo_tools() {
  need sgdisk=gdisk fdisk=fdisk sfdisk=fdisk mke2fs=e2fsprogs debugfs=e2fsprogs mkfs.fat=dosfstools mcopy=mtools \
    busybox=busybox qemu-system-x86_64=qemu-system-x86
}

# What the tests need beside that: every file system's own tools, and second readers.
need_test_tools() {
  need_demo_tools
  need_hfsprogs
  need mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs mkfs.exfat=exfatprogs mkntfs=ntfs-3g mkfs.f2fs=f2fs-tools mkapfs=apfsprogs \
    fsapfsinfo=libfsapfs-utils tsk_recover=sleuthkit grub-fstest=grub-common mkudffs=udftools mdadm=mdadm \
    cryptsetup=cryptsetup-bin losetup=mount zstd=zstd nbdkit=nbdkit
}
