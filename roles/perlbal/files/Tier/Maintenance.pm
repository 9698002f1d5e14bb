# Maintenance (make maintenance): whether visitors get its page. The files are read where they change, without a reload.
package Perlbal::Plugin::Tier::Maintenance;
use strict;
use warnings;

use JSON::PP ();
use Perlbal;
use Perlbal::Plugin::Tier::Request qw(%set);
use Socket ();
use Time::HiRes qw(stat time);

our $directory = '/etc/maintenance';
my ($state, $page, $changed) = ({}, '', '');

# Read the files where the state has changed. What cannot be read changes nothing.
sub renew {
    my @about = stat "$directory/state.json" or return;
    my $version = "@about[1, 9]";
    return if $version eq $changed;
    $changed = $version;
    my $new = eval { JSON::PP::decode_json(content('state.json')) };
    return Perlbal::log(crit => "Tier: $directory/state.json: $@") unless ref $new eq 'HASH';
    ($state, $page) = ($new, content('page.html'));
    return;
}

sub content {
    my $name = shift;
    open(my $file, '<:raw', "$directory/$name") or return '';
    return join '', <$file>;
}

# "closed" or "readonly" with the seconds that are left, as nginx tells the other balancers; nothing where there is no maintenance.
sub in_force {
    my $left = ($state->{until} || 0) - time;
    return $left > 0 ? ($state->{readonly} ? 'readonly' : 'closed') . ':' . seconds($left) : '';
}

# The seconds that are left, of a full ten.
sub seconds { return 10 * (1 + int($_[0] / 10)) }

# Status, headers and body for a request that is refused; nothing for one that is not.
sub refusal {
    my ($visitor, $method) = @_;
    my ($mode, $left) = split /:/, in_force();
    return unless $mode;
    return if $mode eq 'readonly' && $method =~ /^(?:GET|HEAD|OPTIONS)$/;
    return if grep { within($visitor, $_) } split ' ', $set{maintenance_addresses} || '';
    return (503, ['Content-Type' => 'text/html; charset=utf-8', 'Cache-Control' => 'no-store', 'Retry-After' => $left], "$page");
}

# Whether an address of IPv4 is in a network.
sub within {
    my ($address, $network) = @_;
    my ($base, $bits) = split m{/}, $network;
    my ($this, $that) = map { Socket::inet_pton(Socket::AF_INET(), $_) } $address, $base;
    return 0 unless defined $this && defined $that;
    my $mask = ~((1 << 32 - ($bits // 32)) - 1) & 0xffffffff;
    return (unpack('N', $this) & $mask) == (unpack('N', $that) & $mask);
}

1;
