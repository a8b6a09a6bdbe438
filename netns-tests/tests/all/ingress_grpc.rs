//! gRPC through nginx, and what only looks like it.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use netns_tests::wait::{SOON, until_true};
use netns_tests::{curl, in_lab, status};

/// A server that speaks HTTP/2 without TLS and nothing else, as a gRPC server does.
const HTTP2_ONLY: &str = "
daemon off; pid grpc.pid; error_log stderr; events {}
http {
    access_log off;
    server { listen 3000 http2; location / { default_type application/grpc; return 200 '$server_protocol\n'; } }
}
";

#[test]
fn grpc_goes_through_by_http2_and_anything_else_beside_it_by_http1() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let client = lab.host("client")?;
        a.network("demo", &[])?;
        let file = "application: { id: my-shop }\nservices: { web: { ports: ['3000::443'] } }";
        a.peerctl_with_input(&["apply", "-f", "-"], file)?.ok()?;
        a.peerctl(&["ingress", "cert", "dev", "grpc.test"])?.ok()?;
        let one = a.container("one", "demo", "my-shop", &["--type", "web"])?;
        let folder = Path::new("/run/lab/grpc");
        fs::create_dir_all(folder)?;
        fs::write(folder.join("grpc.conf"), HTTP2_ONLY)?;
        let words = ["nginx", "-e", "stderr", "-p", "/run/lab/grpc/", "-c", "grpc.conf"];
        let mut server = one.start(&words)?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        let resolve = format!("grpc.test:443:{}", a.address());
        let call =
            ["-k", "--http2", "--resolve", &resolve, "-H", "Content-Type: application/grpc", "https://grpc.test/"];
        until_true("an answer by HTTP/2", SOON, || {
            server.still_runs()?;
            Ok(curl(&client, &call).is_ok_and(|said| said == "HTTP/2.0\n"))
        })?;
        let call_of = |kind: &str| {
            let header = format!("Content-Type: {kind}");
            status(&client, &["-k", "--http2", "--resolve", &resolve, "-H", &header, "https://grpc.test/"])
        };
        for kind in ["application/grpc+proto", "application/grpc;charset=utf-8"] {
            let (code, _) = call_of(kind)?;
            ensure!(code == 200, "{kind}: {code}");
        }
        // What is no gRPC comes by HTTP/1.1, which this server does not speak. gRPC-Web is none.
        for kind in ["", "application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"] {
            let (code, _) = call_of(kind)?;
            ensure!(code != 200, "{kind}: {code}");
        }
        Ok(())
    });
}
