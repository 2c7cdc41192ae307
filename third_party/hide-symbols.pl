#!/usr/bin/env perl
# hide-symbols.pl ARCHIVE...: gives every global symbol that an archive's ELF
# objects define hidden visibility.
#
# -fvisibility=hidden does not reach symbols that assembler files define, nor
# those that a library's own headers mark as exported. In a program that also
# loads a shared library with a symbol of the same name, the linker would export
# ours and that library would silently run it.
use strict;
use warnings;

my $STV_HIDDEN = 2;

for my $file (@ARGV) {
    open my $in, '<:raw', $file or die "$file: $!\n";
    my $data = do { local $/; <$in> };
    close $in;
    substr($data, 0, 8) eq "!<arch>\n" or die "$file: not an archive\n";
    my ($offset, $hidden, $objects) = (8, 0, 0);
    while ($offset + 60 <= length $data) {
        my $size = substr $data, $offset + 48, 10;
        substr($data, $offset + 58, 2) eq "`\n" or die "$file: bad archive member at $offset\n";
        $size =~ s/\s+\z//;
        my $start = $offset + 60;
        # ELF, 64 bits, least significant byte first.
        if ($size > 64 && substr($data, $start, 6) eq "\x7fELF\x02\x01") {
            $objects++;
            $hidden += hide_object(\$data, $start);
        }
        $offset = $start + $size + $size % 2;
    }
    next if !$hidden;
    open my $out, '>:raw', "$file.tmp" or die "$file.tmp: $!\n";
    print {$out} $data;
    close $out or die "$file.tmp: $!\n";
    rename "$file.tmp", $file or die "$file: $!\n";
    print "$file: $hidden symbols hidden in $objects objects\n";
}

sub hide_object {
    my ($data, $start) = @_;
    my $count  = 0;
    my $shoff  = unpack 'Q<', substr $$data, $start + 0x28, 8;
    my ($entry, $sections) = unpack 'S<S<', substr $$data, $start + 0x3a, 4;
    for my $i (0 .. $sections - 1) {
        my $header = substr $$data, $start + $shoff + $i * $entry, $entry;
        my ($type, $at, $length, $each) = (unpack 'L<L<Q<Q<Q<Q<L<L<Q<Q<', $header)[1, 4, 5, 9];
        next if $type != 2;    # SHT_SYMTAB
        for (my $s = 0; $s < $length; $s += $each) {
            my $symbol = $start + $at + $s;
            my ($info, $other, $section) = unpack 'CCS<', substr $$data, $symbol + 4, 4;
            my $bind = $info >> 4;
            next if $bind != 1 || $section == 0 || ($other & 3) != 0;    # STB_GLOBAL, defined, default
            substr($$data, $symbol + 5, 1) = chr(($other & ~3) | $STV_HIDDEN);
            $count++;
        }
    }
    return $count;
}
