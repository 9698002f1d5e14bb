# What the tier asks of a balancer and Perlbal alone does not do: TLS of today, names and paths, headers that are
# true, a limit on uploads, another host for a request whose host failed, an answer where all failed, a log.
# Its settings are the TIER lines of perlbal.conf.
package Perlbal::Plugin::Tier;
use strict;
use warnings;
no warnings qw(deprecated redefine);

use IO::Socket::SSL ();
use IO::Socket::UNIX ();
use POSIX ();
use Perlbal;
use Scalar::Util qw(refaddr);
use Socket ();
use Time::HiRes qw(time);

our %set;        # {setting: words}
our %under_way;  # {address of a client: its request}
our (%busy, %rested);  # {host: requests under way there}, {host: when it may be asked again after a failure}
our ($log, $unavailable);
my (%names, @files);

$Perlbal::HTTPHeaders::HTTPCode->{$_->[0]} = $_->[1] for [301, 'Moved Permanently'], [405, 'Method Not Allowed'],
    [413, 'Content Too Large'], [421, 'Misdirected Request'], [502, 'Bad Gateway'], [504, 'Gateway Timeout'];

# ------------------------------------------------------------------ what Perlbal calls

sub load {
    Perlbal::register_global_hook('manage_command.tier', sub {
        my $mc = shift->parse(qr/^tier (\w+) ?= ?(.*)$/, 'usage: TIER <setting> = <value>');
        $set{$mc->arg(1)} = $mc->arg(2);
        return $mc->ok;
    });
    Perlbal::register_global_hook(pre_event_loop => \&begin);
    return 1;
}

sub unload { return 1 }

sub register {
    my ($class, $service) = @_;
    return $service->selector(\&route) if $service->{role} eq 'selector';
    $service->register_hook(Tier => start_proxy_request => \&receive);
    $service->register_hook(Tier => backend_client_assigned => \&tell_host);
    $service->register_hook(Tier => modify_response_headers => \&tell_visitor);
    $service->register_hook(Tier => end_proxy_request => sub {
        my $request = delete $under_way{refaddr $_[0]};
        $request->end if $request;
        return 0;
    });
    return 1;
}

sub unregister {
    my ($class, $service) = @_;
    $service->unregister_hooks('Tier');
    return 1;
}

# The configuration is read, the ports are open.
sub begin {
    STDOUT->autoflush(1);
    %names = map { lc $_ => 1 } split ' ', $set{names};
    @files = split ' ', $set{files};
    renew() or die "Perlbal cannot begin without its certificate and its log.\n";
    $SIG{HUP} = \&renew;
    $SIG{TERM} = \&finish;
    watch();
    return unless $ENV{NOTIFY_SOCKET};
    my $systemd = IO::Socket::UNIX->new(Type => Socket::SOCK_DGRAM(), Peer => $ENV{NOTIFY_SOCKET} =~ s/^@/\0/r);
    $systemd->send("READY=1\n") if $systemd;
}

# Read the certificate and open the log, at the start and whenever they were replaced. One TLS context for all
# connections: Perlbal would read key and certificate anew for each.
sub renew {
    my $context = IO::Socket::SSL::SSL_Context->new(
        SSL_server => 1, SSL_cert_file => $set{certificate}, SSL_key_file => $set{certificate},
        SSL_version => 'SSLv23:!SSLv2:!SSLv3:!TLSv1:!TLSv1_1', SSL_cipher_list => $set{ciphers}, SSL_honor_cipher_order => 0,
        SSL_alpn_protocols => ['http/1.1'],
        # A ticket's key would outlive the sessions it protects.
        SSL_create_ctx_callback => sub { Net::SSLeay::CTX_set_options($_[0], Net::SSLeay::OP_NO_TICKET()) },
    ) or return complain("$set{certificate}: $IO::Socket::SSL::SSL_ERROR");
    open(my $new, '>>', $set{log}) or return complain("$set{log}: $!");
    open(my $page, '<', $set{unavailable}) or return complain("$set{unavailable}: $!");
    ($log, $unavailable) = ($new, join '', <$page>);
    hang_up('persist_wait');
    for my $service (grep { $_->{enable_ssl} && $_->{listener} } values %Perlbal::service) {
        $service->{listener}{sslopts} = {SSL_reuse_ctx => $context};
    }
    return 1;
}

# Close what nothing is done on.
sub hang_up {
    my $state = shift;
    my $sockets = Perlbal::Socket->get_sock_ref;
    $_->close('idle') for grep { $_->isa('Perlbal::ClientHTTPBase') && $_->{state} eq $state && $_->{headers_string} eq '' } values %$sockets;
}

sub complain {
    Perlbal::log(crit => "Tier: @_");
    return 0;
}

# Take no more connections, finish what is under way, end.
sub finish {
    hang_up('reading_headers');
    Perlbal::run_manage_command("shutdown graceful $set{finish_s}");
}

# Ten times a second: who has waited for too long?
sub watch {
    my $now = time;
    $_->late for grep { $_->{deadline} && $_->{deadline} < $now } values %under_way;
    Danga::Socket->AddTimer(0.1, \&watch);
}

# ------------------------------------------------------------------ a request comes in

# Where does it belong? What belongs nowhere is answered here.
sub route {
    my $client = shift;
    my $request = Perlbal::Plugin::Tier::Request->new($client);
    my ($headers, $name, $path) = @$request{qw(headers name path)};
    return $request->answer(400) unless defined $path && well_formed($headers);
    if (!$client->{is_ssl}) {
        $request->{quiet} = $path eq $set{health};
        # This machine's own questions; then those of the other balancers.
        return $request->answer($request->{quiet} ? (200, [], "ok\n") : 404) if $request->{visitor} eq '127.0.0.1';
        return $client->close('not our name') unless $names{$name};
        return $request->answer(204) if $request->{quiet};
        return $request->answer(301, [Location => "https://$name$set{port_suffix}" . $headers->request_uri]);
    }
    return $request->answer(421) unless $names{$name};
    # Each app host's questions about itself.
    return $request->answer(404) if $path =~ m{^/-/};
    my $file = $request->{file} = grep { index($path, $_) == 0 } @files;
    return $request->answer(405, [Allow => 'GET, HEAD']) if $file && !$request->{reads};
    $request->hand_to($file ? 'media' : 'app');
    return 1;
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

# Whether balancer and host will agree about where this request ends.
sub well_formed {
    my $headers = shift;
    my ($length, $coding) = map { $headers->header($_) } 'Content-Length', 'Transfer-Encoding';
    return 0 if grep { defined && /[\x00-\x08\x0a-\x1f\x7f]/ } values %{$headers->{headers}};
    return !defined $length || $length =~ /^\d{1,15}$/ unless defined $coding;
    $headers->header('Transfer-Encoding', lc $coding);
    return !defined $length && lc $coding eq 'chunked' && $headers->version_number > 1000;
}

# Before the body is read: does it have to be?
sub receive {
    my $client = shift;
    my ($request, $headers) = ($under_way{refaddr $client}, $client->{req_headers});
    my $length = $headers->header('Content-Length');
    return $request->refuse if $request->{verdict};
    return $request->refuse(413) if $length && $length > $set{upload_limit};
    $client->write("HTTP/1.1 100 Continue\r\n\r\n") if $length && ($headers->header('Expect') || '') =~ /^100-continue$/i;
    return 0;
}

# A body in chunks tells its length at its end.
my $chunked = \&Perlbal::ClientProxy::handle_chunked_upload;
*Perlbal::ClientProxy::handle_chunked_upload = sub {
    my $client = shift;
    $chunked->($client) or return;
    my $take = $client->{chunked_upload_state}{on_new_chunk};
    $client->{chunked_upload_state}{on_new_chunk} = sub {
        return unless $client->{chunked_upload_state};  # refused, or gone
        return $take->(@_) if $client->{request_body_length} + length ${$_[0]} <= $set{upload_limit};
        $under_way{refaddr $client}->refuse(413);
    };
    return 1;
};

# It is in the names of the files that uploads wait in.
*Perlbal::Service::listenaddr = sub { $_[0]{listen} || 'nowhere' };

# What does not become a chunk is not waited for.
my $readable = \&Perlbal::ChunkedUploadState::on_readable;
*Perlbal::ChunkedUploadState::on_readable = sub {
    my $state = shift;
    $readable->($state, @_);
    $state->{on_disconnect}->() if !$state->{bytes_remain} && length $state->{buf} > 65536;
};

# TLS often has nothing to read yet, and an end of it that sets no $!: the one before would be taken for it.
*Perlbal::ClientHTTPBase::read = sub {
    my $self = shift;
    $! = 0;
    my $read = $self->Danga::Socket::read(@_);
    $$read //= '' if $read;
    return $read;
};

# ------------------------------------------------------------------ what hosts and visitors are told

# Set, never appended to: what visitors claim about themselves is not passed on.
sub tell_host {
    my $backend = shift;
    my ($request, $headers) = ($under_way{refaddr $backend->{client}}, $backend->{req_headers});
    $headers->header($_, undef) for (grep { /_/ } @{$headers->{hdorder}}),
        qw(Forwarded Proxy X-Forwarded-Host X-Forwarded-Port X-Forwarded-Server),
        qw(Expect Keep-Alive Proxy-Connection TE Trailer Upgrade);
    $headers->header(Host => $request->{name} . $set{port_suffix});
    $headers->header('X-Request-Id' => $request->{id});
    $headers->header($_ => $request->{visitor}) for qw(X-Real-IP X-Forwarded-For);
    $headers->header('X-Forwarded-Proto' => 'https');
    return 0;
}

sub tell_visitor {
    my ($backend, $client) = @_;
    my ($request, $headers) = ($under_way{refaddr $client}, $client->{res_headers});
    $request->{served_by} = $headers->header('X-Served-By');
    $request->{bytes} = $backend->{content_length};
    $headers->header($_, undef) for qw(Server X-Served-By);
    my %own = $request->own_headers;
    $headers->header($_ => $own{$_}) for keys %own;
    return 0;
}

# ------------------------------------------------------------------ one request, until it is answered

# It asks the hosts itself, one after the other, over connections of its own. Perlbal would put it into a queue for
# whichever connection comes first, and leave the visitor of a host that fails without an answer.
package Perlbal::Plugin::Tier::Request;
use List::Util qw(shuffle);
use Scalar::Util qw(refaddr);
use Time::HiRes qw(time);

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
        client => $client, headers => $headers, name => $name, path => Perlbal::Plugin::Tier::path_of($headers->request_uri),
        id => $id || random_id(), begun => time, visitor => $client->peer_ip_string || '',
        tls => $client->{is_ssl} ? $client->{sock}->get_sslversion =~ tr/_/./r : '',
        body => $body, reads => $reads, again => $reads && !$body, status => 499, asked => [],
    }, $class;
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
