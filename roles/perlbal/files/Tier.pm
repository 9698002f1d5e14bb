# What the tier asks of a balancer and Perlbal alone does not do: TLS of today, names and paths, headers that are
# true, a limit on uploads, another host for a request whose host failed, an answer where all failed, a log.
# Its settings are the TIER lines of perlbal.conf. What becomes of a request is in Tier/Request.pm.
package Perlbal::Plugin::Tier;
use strict;
use warnings;
no warnings qw(deprecated redefine);

use IO::Socket::SSL ();
use IO::Socket::UNIX ();
use Perlbal;
use Perlbal::Plugin::Tier::Maintenance ();
use Perlbal::Plugin::Tier::Request qw(%set %under_way $log $unavailable);
use Scalar::Util qw(refaddr);
use Socket ();
use Time::HiRes qw(time);

my (%names, @files);

$Perlbal::HTTPHeaders::HTTPCode->{$_->[0]} = $_->[1] for [301, 'Moved Permanently'], [405, 'Method Not Allowed'],
    [413, 'Content Too Large'], [421, 'Misdirected Request'], [502, 'Bad Gateway'], [503, 'Service Unavailable'], [504, 'Gateway Timeout'];

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

# Ten times a second: who has waited for too long, and has maintenance begun or ended?
sub watch {
    my $now = time;
    Perlbal::Plugin::Tier::Maintenance::renew();
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
        if ($request->{quiet}) {
            my $maintenance = Perlbal::Plugin::Tier::Maintenance::in_force();
            return $maintenance ? $request->answer(200, [], $maintenance) : $request->answer(204);
        }
        return $request->answer(301, [Location => "https://$name$set{port_suffix}" . $headers->request_uri]);
    }
    return $request->answer(421) unless $names{$name};
    # Each app host's questions about itself.
    return $request->answer(404) if $path =~ m{^/-/};
    my @closed = Perlbal::Plugin::Tier::Maintenance::refusal($request->{visitor}, $headers->request_method);
    return $request->answer(@closed) if @closed;
    my $file = $request->{file} = grep { index($path, $_) == 0 } @files;
    return $request->answer(405, [Allow => 'GET, HEAD']) if $file && !$request->{reads};
    $request->hand_to($file ? 'media' : 'app');
    return 1;
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

1;
