//! Servers of the test's own.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses a part")]

pub mod cluster;
pub mod place;
pub mod postgres;
pub mod warnings;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Redis {
    child: Child,
    pub port: u16,
    args: Vec<String>,
    folder: tempfile::TempDir,
}

impl Redis {
    pub fn start(args: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = spawn(port, &folder, &args);
        let redis = Self { child, port, args, folder };
        redis.wait();
        redis
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends the server a signal by name, as `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill -{name} works");
    }

    pub fn restart(&mut self) {
        self.stop();
        self.child = spawn(self.port, &self.folder, &self.args);
        self.wait();
    }

    /// What `redis-cli` answers.
    pub fn cli(&self, args: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        let output = cli.args(["-p", &self.port.to_string()]).args(args).output();
        let output = output.expect("redis-cli is missing; install it: apt-get install redis-tools");
        String::from_utf8_lossy(&output.stdout).trim().into()
    }
}

fn spawn(port: u16, folder: &tempfile::TempDir, args: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning", "--dir"])
        .arg(folder.path())
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is missing; install it: apt-get install redis-server")
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
