# One request, until it is answered. It asks the hosts itself, one after the other, over connections of its own. Perlbal
# would put it into a queue for whichever connection comes first, and leave the visitor of a host that fails without an answer.
package Perlbal::Plugin::Tier::Request;
use strict;
use warnings;
no warnings qw(deprecated redefine);

use Exporter qw(import);
use List::Util qw(shuffle);
use POSIX ();
use Perlbal;
use Scalar::Util qw(refaddr);
use Socket ();
use Time::HiRes qw(time);

our @EXPORT_OK = qw(%set %under_way $log $unavailable);
our %set;        # {setting: words}
our %under_way;  # {address of a client: its request}
our ($log, $unavailable);  # what the plugin has opened and read
my (%busy, %rested);  # {host: requests under way there}, {host: when it may be asked again after a failure}

*Perlbal::Service::request_backend_connection = sub {
    my ($service, $client) = @_;
    $under_way{refaddr $client}->ask if $client && !$client->{closed};
};

sub new {
    my ($class, $client) = @_;
    my $headers = $client->{req_headers};
    my ($name) = lc($headers->header('Host') || '') =~ /^(.*?)(?::\d*)?$/;
    # A visitor's own id is kept, if it is one: 32 hexadecimal digits, as a UUID has them.
    my ($id) = ($headers->header('X-Request-Id') || '') =~ /^([0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12})\z/;
    my $body = grep { $headers->header($_) } 'Content-Length', 'Transfer-Encoding';
    my $reads = $headers->request_method =~ /^(?:GET|HEAD)$/;
    return bless {
        client => $client, headers => $headers, name => $name, path => path_of($headers->request_uri),
        id => $id || random_id(), begun => time, visitor => $client->peer_ip_string || '',
        tls => $client->{is_ssl} ? $client->{sock}->get_sslversion =~ tr/_/./r : '',
        body => $body, reads => $reads, again => $reads && !$body, status => 499, asked => [],
    }, $class;
}

# The path as a host will understand it; undef where it makes no sense.
sub path_of {
    my $path = shift =~ s/[?#].*//sr;
    $path =~ s/%([0-9a-fA-F]{2})/chr hex $1/ge;
    return undef unless $path =~ m{^/} && $path !~ /\0/;
    my ($last, @kept) = '';
    for my $part (split m{/+}, $path, -1) {
        $last = $part;
        next if $part eq '' || $part eq '.';
        push(@kept, $part), next if $part ne '..';
        return undef unless @kept;
        pop @kept;
    }
    return '/' . join('/', @kept) . (@kept && $last =~ /^\.{0,2}$/ ? '/' : '');
}

sub random_id {
    open(my $random, '<:raw', '/dev/urandom') or die "/dev/urandom: $!\n";
    read($random, my $bytes, 16);
    return unpack 'H*', $bytes;
}

sub own_headers {
    my $self = shift;
    return ('X-Request-Id' => $self->{id}, $self->{tls} && $set{hsts} ? ('Strict-Transport-Security' => $set{hsts}) : ());
}

sub hand_to {
    my ($self, $service) = @_;
    $under_way{refaddr $self->{client}} = $self;
    Perlbal->service($service)->adopt_base_client($self->{client});
}

# Answer without a host. Where a body comes along, it is left to a service that can hear it out.
sub answer {
    my ($self, $status, $headers, $body) = @_;
    if ($self->{body}) {
        $self->{verdict} = [$status, $headers, $body];
        $self->hand_to('app');
        return 1;
    }
    $self->{status} = $status;
    $self->{client}->send_full_response($status, [@{$headers || []}, $self->own_headers], $body // '');
    $self->record;
    return 1;
}

# Answer and hear the visitor out for a moment: closed on at once, they would see a broken connection and no answer.
sub refuse {
    my ($self, @verdict) = @_;
    my $client = $self->{client};
    my ($status, $headers, $body) = @verdict ? @verdict : @{$self->{verdict}};
    $self->forget_body;
    $client->{responded} = $client->{is_buffering} = 1;
    $client->{content_length_remain} = 1e15;
    $self->{status} = $status;
    my $response = $client->{res_headers} = Perlbal::HTTPHeaders->new_response($status);
    my @all = (@{$headers || []}, $self->own_headers, 'Content-Length' => length($body // ''), Connection => 'close');
    $response->header(splice @all, 0, 2) while @all;
    $client->write($response->to_string_ref);
    $client->write($body) if length($body // '');
    $client->watch_read(1);
    Danga::Socket->AddTimer($set{linger_s}, sub { $client->close('heard out') });
    return 1;
}

sub forget_body {
    my $client = $_[0]{client};
    $client->purge_buffered_upload if $client->{bufh};
    @$client{qw(chunked_upload_state bureason read_buf read_ahead)} = (undef, undef, [], 0);
}

# Ask the next host: one that has not failed of late, then the one with the least to do.
sub ask {
    my $self = shift;
    my $service = $self->{client}{service};
    my ($host) = $self->hosts_left or return $self->give_up(502);
    my ($address, $port) = split /:/, $host;
    push @{$self->{asked}}, {host => $host, status => '-', begun => time, seconds => 0};
    $busy{$host}++;
    @$self{qw(sent answered deadline)} = (0, 0, time + $set{connect_s});
    local *Perlbal::Socket::register_callback = sub { };  # it would look after 15 s, and keep the connection in memory until then
    $self->{backend} = Perlbal::BackendHTTP->new($service, $address, $port, {pool => $service->{pool}, reportto => $self});
    return if $self->{backend};
    $busy{$host}--;
    $self->failed(502);
}

sub hosts_left {
    my $self = shift;
    return if @{$self->{asked}} >= $set{tries};
    my ($now, %asked) = (time, map { $_->{host} => 1 } @{$self->{asked}});
    my @left = grep { !$asked{$_} } map { "$_->[0]:$_->[1]" } @{$self->{client}{service}{pool}->nodes};
    @left = sort { (($rested{$a} || 0) > $now) <=> (($rested{$b} || 0) > $now) || ($busy{$a} || 0) <=> ($busy{$b} || 0) } shuffle(@left);
    return @left;
}

# The connection stands. Of a host that answers nobody, backend-watch closes those with TCP keepalive.
sub register_boredom {
    my ($self, $backend) = @_;
    return $backend->close('used up') if $self->{sent} || !$self->{backend} || $self->{backend} != $backend;
    $self->{sent} = 1;
    $self->{deadline} = time + $set{answer_s};
    setsockopt($backend->{sock}, Socket::SOL_SOCKET(), Socket::SO_KEEPALIVE(), 1) if $self->{again};
    $backend->assign_client($self->{client});
}

# The host has begun to answer. True: that answer is not passed on.
sub backend_response_received {
    my ($self, $backend) = @_;
    my $status = $backend->{res_headers}->response_code;
    $self->note($status, $status == 502 || $status == 503);
    if ($self->{again} && ($status == 502 || $status == 503 || $status == 404 && $self->{file}) && $self->hosts_left) {
        $self->let_go;
        $self->ask;
        return 1;
    }
    @$self{qw(status answered deadline)} = ($status, 1, undef);
    return 0;
}

sub note_bad_backend_connect { }  # the close that follows says it

sub note_backend_close {
    my ($self, $backend) = @_;
    $busy{$backend->{ipport}}--;
    return unless $self->{backend} && $self->{backend} == $backend;
    undef $self->{backend};
    return $self->failed(502) unless $self->{answered};
    # Whoever got half an answer has to notice.
    $self->{client}->close('half an answer') if $backend->{content_length_remain};
}

# A connection that breaks has failed, whatever it was at.
*Perlbal::BackendHTTP::event_err = *Perlbal::BackendHTTP::event_hup = sub {
    my $backend = shift;
    $backend->{client}->close('half an answer') if $backend->{client} && $backend->{res_headers};
    $backend->close('broken');
};

sub late {
    my $self = shift;
    $self->let_go;
    $self->failed($self->{sent} ? 504 : 502);
}

sub let_go {
    my $backend = delete $_[0]{backend};
    $backend->close('let go') if $backend;
}

sub note {
    my ($self, $status, $failed) = @_;
    my $last = $self->{asked}[-1];
    @$last{qw(status seconds)} = ($status, time - $last->{begun});
    return unless $failed;
    $rested{$last->{host}} = time + $set{rest_s};
    $Perlbal::BackendHTTP::NodeStats{$last->{host}}{failures}++;
}

# Asked again where the connection was lost. After 504 the host may still be working on it.
sub failed {
    my ($self, $status) = @_;
    $self->note($status, 1);
    return $self->ask if (!$self->{sent} || $self->{again} && $status != 504) && $self->hosts_left;
    $self->give_up($status);
}

sub give_up {
    my ($self, $status) = @_;
    $self->{deadline} = undef;
    $self->{status} = $status;
    $self->forget_body;
    $self->{client}{backend} = undef;
    $self->{client}->send_full_response($status, ['Content-Type' => 'text/html; charset=utf-8', 'Cache-Control' => 'no-store',
        'Retry-After' => $set{retry_after_s}, $self->own_headers], "$unavailable");
}

sub end {
    my $self = shift;
    $self->let_go;
    $self->forget_body;
    $self->record;
}

# A line of the log, as nginx writes it here.
sub record {
    my $self = shift;
    return if $self->{quiet};
    my ($headers, @asked) = ($self->{headers}, @{$self->{asked}});
    my @said = (
        time => POSIX::strftime('%Y-%m-%dT%H:%M:%S+00:00', gmtime), request_id => $self->{id}, client => $self->{visitor},
        method => $headers->request_method, scheme => $self->{tls} ? 'https' : 'http', host => $self->{name},
        uri => $headers->request_uri, protocol => "HTTP/$headers->{ver}", status => $self->{status}, bytes => $self->{bytes},
        request_time => sprintf('%.3f', time - $self->{begun}), upstream => join(', ', map { $_->{host} } @asked),
        upstream_status => join(', ', map { $_->{status} } @asked),
        upstream_time => join(', ', map { sprintf '%.3f', $_->{seconds} } @asked), served_by => $self->{served_by},
        tls => $self->{tls}, referer => $headers->header('Referer'), agent => $headers->header('User-Agent'),
    );
    my @words = map { ($_ // '') =~ s/([\x00-\x1f"\\\x7f-\xff])/sprintf '\u%04x', ord $1/ger } @said;
    my @pairs;
    push @pairs, sprintf '"%s":"%s"', splice @words, 0, 2 while @words;
    syswrite $log, '{' . join(',', @pairs) . "}\n";
}

1;
