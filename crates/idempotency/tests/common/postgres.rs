//! A Postgres server of the test's own, or one that the tests of a binary share.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use idempotency::stores::{PostgresOptions, postgres_schema};

pub struct Postgres {
    child: Child,
    /// Ends the server when this process does, whose statics nobody drops.
    watchdog: Option<(Child, ChildStdin)>,
    pub port: u16,
    args: Vec<String>,
    folder: tempfile::TempDir,
}

/// The user that the server runs as where the tests are root's, whom it refuses: nobody.
const NOBODY: u32 = 65534;

/// A program of the server's. Debian has them where no shell looks.
pub fn program(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    installed.sort();
    installed.push(PathBuf::from("/usr/sbin").join(name));
    let path = on_path.chain(installed.into_iter().rev()).find(|path| path.exists());
    let missing = || panic!("{name} is missing; install it: apt-get install postgresql pgbouncer");
    let mut command = Command::new(path.unwrap_or_else(missing));
    // SAFETY: asks who runs this.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.stdout(Stdio::null());
    command
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder that the server's user may write.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let _ = std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)); // not root: it is ours already
    folder
}

fn done(command: &mut Command) {
    let output = command.stdout(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Postgres {
    /// A server with settings of its own, as `name=value`.
    pub fn start(settings: &[&str]) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        done(
            program("initdb")
                .args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"])
                .arg(&data),
        );
        Self::on(folder, settings)
    }

    /// A server over a folder with `data` in it.
    pub fn on(folder: tempfile::TempDir, settings: &[&str]) -> Self {
        let (port, args) = (free_port(), settings.iter().map(ToString::to_string).collect::<Vec<_>>());
        let child = spawn(port, folder.path(), &args);
        let mut postgres = Self { child, watchdog: None, port, args, folder };
        postgres.wait();
        postgres
    }

    /// The server that the tests of this binary share; each has a schema of its own.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Postgres> = LazyLock::new(|| {
            let mut server = Postgres::start(&["max_connections=300"]);
            let mut sh = Command::new("sh");
            sh.args(["-c", "read _; kill -QUIT $0; rm -rf $1", &server.child.id().to_string()])
                .arg(server.folder.path());
            let mut watchdog = sh.process_group(0).stdin(Stdio::piped()).spawn().unwrap();
            let stdin = watchdog.stdin.take().unwrap();
            server.watchdog = Some((watchdog, stdin));
            server
        });
        &SHARED
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let is_ready = || {
            let mut psql = Command::new("psql");
            psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-Atc", "SELECT 1"]);
            psql.stderr(Stdio::null()).output().is_ok_and(|output| output.status.success())
        };
        while !is_ready() {
            assert!(Instant::now() < deadline, "the Postgres server did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The address of its database, as a superuser, for a schema.
    pub fn url(&self, schema: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?schema={schema}", self.port)
    }

    pub fn options(&self, schema: &str) -> PostgresOptions {
        PostgresOptions::from_url(&self.url(schema)).unwrap()
    }

    /// A schema that no other test has, made as a migration would.
    pub fn schema(&self) -> String {
        let schema = fresh_schema();
        self.sql(&postgres_schema(&schema).unwrap());
        schema
    }

    /// What `psql` answers, in any database.
    pub fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-X", "-q", "-Atc", sql]);
        let output = psql
            .args(["-v", "ON_ERROR_STOP=1"])
            .output()
            .expect("psql is missing; install it: apt-get install postgresql");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().into()
    }

    /// Ends the server at once, as a crash does.
    pub fn stop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            let _ = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
            self.child.wait().unwrap();
        }
    }

    /// Sends the server's processes a signal by name, as `STOP`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let sent =
            Command::new("kill").arg(format!("-{name}")).arg(&id).args(children.split_whitespace()).status().unwrap();
        assert!(sent.success(), "kill -{name} works");
    }

    pub fn restart(&mut self) {
        self.stop();
        self.begin();
    }

    /// Starts a server that was stopped.
    pub fn begin(&mut self) {
        self.child = spawn(self.port, self.folder.path(), &self.args);
        self.wait();
    }
}

pub fn fresh_schema() -> String {
    let idempotency::Token(token) = idempotency::Token::random();
    format!("t{:032x}", u128::from_be_bytes(token))
}

fn spawn(port: u16, folder: &Path, settings: &[String]) -> Child {
    let mut server = program("postgres");
    server.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    server.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    for setting in settings {
        server.args(["-c", setting]);
    }
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    server.stderr(log).spawn().unwrap()
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        if let Some((mut watchdog, mut stdin)) = self.watchdog.take() {
            let _ = stdin.write_all(b"\n");
            let _ = watchdog.wait();
        }
    }
}

/// A replica of a server, with its data as it is now, that follows it.
pub fn replica_of(primary: &Postgres) -> Postgres {
    let folder = folder();
    let mut backup = program("pg_basebackup");
    backup.args([
        "-h",
        "127.0.0.1",
        "-p",
        &primary.port.to_string(),
        "-U",
        "postgres",
        "-R",
        "-X",
        "stream",
        "-c",
        "fast",
        "-D",
    ]);
    let copied = backup.arg(folder.path().join("data")).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    Postgres::on(folder, &[])
}

/// A pooler before a server, which gives a connection to a client for one transaction.
pub struct PgBouncer {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl PgBouncer {
    pub fn start(server: &Postgres) -> Self {
        let (port, folder) = (free_port(), folder());
        let users = folder.path().join("users");
        std::fs::write(&users, "\"postgres\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 3\n\
             max_client_conn = 300\n",
            server.port,
            users.display()
        );
        std::fs::write(folder.path().join("settings"), settings).unwrap();
        let mut pooler = program("pgbouncer");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = pooler.arg(folder.path().join("settings")).stderr(log).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "pgbouncer did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, _folder: folder }
    }

    pub fn url(&self, schema: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?schema={schema}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
