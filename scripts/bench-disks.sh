# Sourced by bench-speed and bench-chunks: disks with real files of this machine, and what a day changes on them. Needs lib.sh, and $work.
# Perl, because Debian always has it, and a shell does not seek.

# choose BYTES: lists files of this machine in $work/chosen, some more in $work/later, and those of the first that are
# deleted again in $work/deleted. The same machine gives the same list; no file is listed twice, whatever it is called.
choose() {
  local folder
  for folder in /usr /opt /var/lib "${CARGO_HOME:-$HOME/.cargo}"; do
    [ ! -d "$folder" ] || printf '%s\0' "$folder"
  done >"$work/places"
  find -files0-from "$work/places" -xdev -type f -size +0 -readable -printf '%i %s %p\0' 2>/dev/null |
    LC_ALL=C sort -z -u -t ' ' -k 1,1n | perl -0 -we '
      use strict;
      my ($want, $work) = @ARGV; srand 1; my (%key, %size, $sum);
      while (<STDIN>) { chomp; my (undef, $size, $path) = split / /, $_, 3;
        # One huge file would be half of what is measured; and debugfs takes no quotes in a name.
        next if $size > $want / 20 or $path =~ /["\\\n]/;
        ($key{$path}, $size{$path}) = (rand, 4096 * int(($size + 4095) / 4096)) }
      my @lists = map { open my $f, ">", "$work/$_" or die $!; $f } "chosen", "deleted", "later"; my $n = 0;
      for my $path (sort { $key{$a} <=> $key{$b} } keys %key) {
        my $deleted = ++$n % 10 == 0 && ($sum // 0) < $want;
        if (($sum // 0) < $want) { print { $lists[0] } "$path\0"; print { $lists[1] } "$path\0" if $deleted }
        elsif ($sum < 1.03 * $want) { print { $lists[2] } "$path\0" }
        else { last }
        $sum += $size{$path} unless $deleted }
      die sprintf "this machine has only %d MiB of files to fill disks with; --size asks for %d\n", ($sum // 0) >> 20, $want >> 20
        if ($sum // 0) < 1.02 * $want' "$1" "$work" || die "no disk can be filled"
}

# tree FOLDER: the chosen files below it, as links where they can be.
tree() {
  mkdir -p "$1"
  local first link=-l
  IFS= read -r -d '' first <"$work/chosen"
  cp -l "$first" "$work/link" 2>/dev/null || link=''
  rm -f "$work/link"
  xargs -0 -a "$work/chosen" cp $link --parents -t "$1"
}

# make KIND FILE BYTES: a file system in FILE with the chosen files, filled to two thirds, some of them deleted again.
make() {
  local kind=$1 file=$2 mib=$(($3 * 3 / 2 / 1048576)) driver=$1
  truncate -s "${mib}M" "$file"
  if [ "$kind" = ext4 ]; then
    mke2fs -q -F -t ext4 -L bench -d "$work/tree" "$file"
    tr '\0' '\n' <"$work/deleted" | sed 's/.*/rm "&"/' | debugfs -w -f - "$file" >/dev/null 2>&1
    e2fsck -fn "$file" >"$work/log" 2>&1 || die "the ext4 that was made is not sound: $(tail -n 1 "$work/log")"
    return
  fi
  case $kind in
    # There is none below 300 MiB.
    xfs) truncate -s ">320M" "$file" && mkfs.xfs -q -f -L bench "$file" ;;
    ntfs) mkntfs -q -F -f -L bench "$file" && driver=ntfs-3g ;;
    *) die "no file system is called $kind" ;;
  esac >"$work/log" 2>&1
  mounted "$driver" "$file" || return
  as_root cp -r "$work/tree/." "$work/mnt" && (cd "$work/mnt" && sed -z 's|^/||' "$work/deleted" | as_root xargs -0 rm)
  unmounted
}

has_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

# mounted DRIVER FILE: mounts it on $work/mnt; fails where that cannot be.
mounted() {
  mkdir -p "$work/mnt"
  has_root || { echo 'this needs root' >"$work/log"; return 1; }
  as_root mount -o loop,noatime -t "$1" "$2" "$work/mnt" 2>"$work/log" || return
  is_mounted=yes
}

unmounted() {
  as_root umount "$work/mnt"
  is_mounted=''
}

# disk PARTITION DISK: a disk with a GPT and that partition.
disk() {
  truncate -s "$(($(stat -c %s "$1") + 2 * 1048576))" "$2"
  sgdisk -n 1:2048:"$((2047 + $(stat -c %s "$1") / 512))" "$2" >/dev/null
  dd if="$1" of="$2" bs=1M seek=1 conv=notrunc,sparse status=none
}

# churn KIND FILE BYTES: rewrites pages here and there in files, makes files, deletes some, with BYTES in all. New
# contents are those of other real files, at places where no chunk of them begins.
churn() {
  local driver=$1
  [ "$1" != ntfs ] || driver=ntfs-3g
  mounted "$driver" "$2" || return
  find "$work/mnt" -xdev -type f -size +4k -printf '%s %p\0' | LC_ALL=C sort -z >"$work/files"
  as_root perl -0 -we '
    use strict;
    my ($want, $later, $mnt) = @ARGV; srand 2; my (@files, @ends, $pages, $pool);
    while (<STDIN>) { chomp; my ($size, $path) = split / /, $_, 2; push @files, $path; push @ends, $pages += int($size / 4096) }
    open my $list, "<", $later or die $!;
    while (<$list>) { chomp; open my $f, "<", $_ or next; local $/; $pool .= <$f>; last if length $pool > 64 << 20 }
    my $some = sub { substr $pool, int rand(length($pool) - $_[0]), $_[0] };
    for (1 .. $want * 0.7 / 4096) {
      my $page = int rand $pages; my ($low, $high) = (0, $#ends);
      while ($low < $high) { my $mid = ($low + $high) >> 1; $ends[$mid] > $page ? ($high = $mid) : ($low = $mid + 1) }
      open my $f, "+<", $files[$low] or die "$files[$low]: $!";
      seek $f, 4096 * ($page - ($low ? $ends[$low - 1] : 0)), 0; print $f $some->(4096); close $f or die $! }
    for (my ($made, $n) = (0, 0); $made < $want * 0.3; $n++) {
      my $len = 1 + int rand 100_000; open my $f, ">", "$mnt/new$n" or die $!; print $f $some->($len); close $f or die $!;
      $made += $len; unlink $files[rand @files] if $n % 2 }' "$3" "$work/later" "$work/mnt" <"$work/files"
  unmounted
}

# extents DISK: what an image keeps of its partition, a line an extent: first byte of the disk, byte after the last.
extents() { "$program" show "$1" --extents | awk '$1 == 1 { print $2, $3 }'; }

# kept DISK: the bytes of these extents.
kept() {
  extents "$1" | perl -we 'use strict; open my $disk, "<", $ARGV[0] or die $!;
    while (<STDIN>) { my ($at, $end) = split; seek $disk, $at, 0;
      while ($at < $end) { my $n = read $disk, my $part, $end - $at < 1 << 20 ? $end - $at : 1 << 20 or die "short"; print $part; $at += $n } }' "$1"
}

# changed OLD NEW: those 4 KiB pages among them that are other than before.
changed() {
  extents "$2" | perl -we 'use strict; open my $old, "<", $ARGV[0] or die $!; open my $new, "<", $ARGV[1] or die $!;
    my $last = -1;
    while (<STDIN>) { my ($at, $end) = split;
      for (my $page = $at >> 12; $page << 12 < $end; $page++) { next if $page <= $last; $last = $page;
        seek $_, $page << 12, 0 for $old, $new; read $old, my $was, 4096; read $new, my $is, 4096; print $is if $was ne $is } }' "$1" "$2"
}

# noise FILE BYTES: fills it with what no file system left there.
noise() {
  [ -e "$work/noise" ] || head -c 64M /dev/urandom >"$work/noise"
  local n
  for n in $(seq $(($2 / 67108864 + 1))); do cat "$work/noise"; done >"$1"
  truncate -s "$2" "$1"
  sync "$1"
}
