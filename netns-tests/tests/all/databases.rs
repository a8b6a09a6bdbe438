//! FEATURES E2: databases by their type and server, with the servers and command-line clients that people run.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::until;
use netns_tests::{Background, Container, in_lab, skip};

/// A command as the user that the server insists on.
fn as_postgres<'w>(words: &[&'w str]) -> Vec<&'w str> {
    [&["runuser", "-u", "postgres", "--"], words].concat()
}

/// A database server's first start writes its system tables.
const STARTED: Duration = Duration::from_secs(60);
const POSTGRES: &str = "/usr/lib/postgresql/15/bin";

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of ours is text")
}

/// A MariaDB server that calls itself `id`.
fn mariadb(container: &Container, folder: &Path, id: u32) -> Result<Background> {
    let data = folder.join(container.name());
    let datadir = format!("--datadir={}", text(&data)?);
    let made = ["mariadb-install-db", "--no-defaults", "--user=root", "--skip-test-db", &datadir];
    container.exec(&made)?.ok()?;
    let users = data.join("users.sql");
    std::fs::write(&users, "CREATE USER 'app'@'%' IDENTIFIED BY 'a password';\n")?;
    container.start(&[
        "mariadbd",
        "--no-defaults",
        "--user=root",
        "--bind-address=0.0.0.0",
        "--skip-name-resolve",
        &datadir,
        &format!("--socket={}", text(&data.join("socket"))?),
        &format!("--init-file={}", text(&users)?),
        &format!("--server-id={id}"),
    ])
}

/// What the server of this name calls itself, once it answers.
fn ask_mysql(caller: &Container, server: &mut Background, name: &str) -> Result<String> {
    let query =
        ["mysql", "--no-defaults", "-h", name, "-u", "app", "--password=a password", "-N", "-e", "SELECT @@server_id"];
    until(&format!("an answer of {name}"), STARTED, || {
        server.still_runs()?;
        let said = caller.exec(&query)?;
        Ok((said.code == 0).then(|| said.stdout.trim().to_owned()))
    })
}

#[test]
fn e2_mysqls_client_finds_the_default_server_and_each_by_its_name() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let folder = tempfile::tempdir()?;
        let caller = a.container("web-1", "demo", "shop", &["--version", "v7"])?;
        let main = b.container("db-1", "demo", "shop", &["--database", "mysql"])?;
        let leopard = a.container("db-2", "demo", "shop", &["--database", "mysql/leopard"])?;
        for container in [&main, &leopard] {
            a.knows(container)?;
        }
        let mut servers = [mariadb(&main, folder.path(), 1)?, mariadb(&leopard, folder.path(), 2)?];
        for (name, due) in [
            ("mysql", 1),
            ("mysql-default", 1),
            ("mysql-leopard", 2),
            ("mysql-leopard.svc.private-network.internal", 2),
        ] {
            let said = ask_mysql(&caller, &mut servers[due - 1], name)?;
            ensure!(said == due.to_string(), "{name} is server {said}");
        }
        // Which one the bare name means is the service file's to say.
        let file = "
application: { id: shop, namespace: backoffice }
databases:
  mysql: { primary: leopard, servers: { default: { port: 3306 }, leopard: { port: 3306 } } }
";
        a.peerctl_with_input(&["apply", "-f", "-", "--network", "demo"], file)?.ok()?;
        let said = ask_mysql(&caller, &mut servers[1], "mysql")?;
        ensure!(said == "2", "the primary is server {said}");
        Ok(())
    });
}

#[test]
fn e2_postgresqls_client_finds_its_server_by_the_type() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let caller = a.container("web-1", "demo", "shop", &[])?;
        let server = b.container("db-1", "demo", "shop", &["--database", "postgresql"])?;
        a.knows(&server)?;
        // The server refuses to be root, and in a user namespace of one user there is nobody else.
        let chown = server.exec(&["chown", "postgres", text(&data)?])?;
        if chown.code != 0 {
            skip("databases: the server runs as user postgres only, who is not to be had here");
            return Ok(());
        }
        let (initdb, postgres) = (format!("{POSTGRES}/initdb"), format!("{POSTGRES}/postgres"));
        server.exec(&as_postgres(&[&initdb, "-A", "trust", "-D", text(&data)?]))?.ok()?;
        let access = data.join("pg_hba.conf");
        std::fs::write(&access, "host all all 10.240.0.0/22 trust\nhost all all 169.254.240.0/20 trust\n")?;
        let words = [&*postgres, "-D", text(&data)?, "-h", "0.0.0.0", "-k", "", "-c", "cluster_name=ours"];
        let mut running = server.start(&as_postgres(&words))?;
        for name in ["postgresql", "postgresql-default"] {
            let query = ["psql", "-h", name, "-U", "postgres", "-Atc", "SHOW cluster_name"];
            let said = until(&format!("an answer of {name}"), STARTED, || {
                running.still_runs()?;
                let said = caller.exec(&query)?;
                Ok((said.code == 0).then(|| said.stdout.trim().to_owned()))
            })?;
            ensure!(said == "ours", "{name} is {said}");
        }

        // And somebody on the other host, who is in no container, by a port of that host.
        let forward = ["forward", "0:postgresql.shop:5432", "--network", "demo"];
        let mut forward = Background::start(&mut a.peerctl_command(&forward)?, Path::new("/run/lab/forward").into())?;
        let port = until("a port", STARTED, || {
            forward.still_runs()?;
            Ok(forward.printed()?.lines().find_map(|line| line.strip_prefix("127.0.0.1:").map(str::to_owned)))
        })?;
        let query = ["psql", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-Atc", "SHOW cluster_name"];
        let said = a.exec(&query)?.ok()?.stdout;
        ensure!(said == "ours\n", "{said}");
        Ok(())
    });
}
