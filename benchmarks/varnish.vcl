# Varnish in front of bare_wsgi.py. Words between @ are replaced.
vcl 4.1;

backend default {
    .host = "127.0.0.1";
    .port = "@backend_port@";
}

sub vcl_backend_response {
    set beresp.ttl = 1h;
}
