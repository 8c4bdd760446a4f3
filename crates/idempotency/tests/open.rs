//! The store at a URL.

mod common;

use common::Redis;
use idempotency::{Done, Idempotency, StoreErrorKind, stores};

async fn runs(url: &str) -> Done<u32> {
    let engine = Idempotency::new(stores::open(url).unwrap());
    engine.call("work", "1").unwrap().run(async |_| Ok::<_, String>(1)).await.unwrap()
}

#[tokio::test]
async fn a_url_leads_to_its_store() {
    let server = Redis::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:///{}/a%20b.db", folder.path().display());
    let database = common::postgres::Postgres::shared();
    let postgres = database.url(&database.schema());
    for url in [server.url().as_str(), &sqlite, &postgres, &postgres.replace("postgresql://", "postgres://")] {
        let (first, second) = (runs(url).await, runs(url).await);
        assert_eq!(second, Done::Replayed(1), "{url}");
        assert_eq!(first == Done::Ran(1), !url.starts_with("postgres:"), "{url}: both names lead to one database");
    }
    assert!(folder.path().join("a b.db").exists());
    assert_eq!((runs("memory://").await, runs("memory://").await), (Done::Ran(1), Done::Ran(1)), "one of its own");
}

#[test]
fn a_url_that_leads_nowhere_says_what_to_write_and_no_password() {
    let said = [
        ("", "it is not a URL; write redis://host, postgresql://host, sqlite:///path or memory://"),
        ("redis:secret@host", "it is not a URL; write"),
        ("sqlite://", "it names no file; write sqlite:///relative.db or sqlite:////absolute.db"),
        ("sqlite:///", "it names no file"),
        ("sqlite:///%ff.db", "its path is not UTF-8"),
        ("mysql://root:secret@db/x", "no store has URLs with mysql://; there are memory://, sqlite:///"),
        ("redis://user:secret@host:port", "not a Redis URL"),
        ("redis://user:secr?et@host", "not a Redis URL"),
        ("redis://user:secr/et@host", "not a Redis URL"),
        ("redis://user:secr#et@host", "not a Redis URL"),
        ("redis://user:secr@et@host:x", "not a Redis URL"),
        ("redis://host?password=secret", "not a Redis URL"),
        ("unix:///socket?pass=secret&db=x", "not a Redis URL"),
        ("redis://host:99999", "not a Redis URL"),
        ("redis+sentinel://user:secret@host,other", "name the service after the hosts"),
        ("redis+sentinel://user:secret@host:x/shop", "not a Redis URL"),
        ("redis+sentinel://host,,other/shop", "a host is missing"),
        ("redis+sentinel://host/shop/first?sentinel_password=secret", "not a Redis URL"),
        ("redis+sentinel://host/shop?sentinel_pass=secret", "the parameter \"sentinel_pass\" is not known"),
        ("redis+sentinel://host/shop?sentinel_tls=1", "sentinel_tls is yes or no"),
        ("redis+cluster://user:secret@host/1", "a cluster has one database, 0"),
        ("redis+cluster://user:secr#et@host", "written as %23?"),
        ("redis+cluster://user:secr/et@host", "not a Redis URL"),
        ("redis+other://user:secret@host", "no store has URLs with redis+other://"),
        ("postgresql://user:secret@host:port", "not a Postgres URL"),
        ("postgres://user:secr?et@host", "not a Postgres URL"),
        ("postgresql://user:secret@host?sslmode=maybe", "not a Postgres URL"),
    ];
    for (url, words) in said {
        let error = stores::open(url).map(|_| panic!("{url} leads somewhere")).unwrap_err();
        let whole = format!("{error} {error:?}");
        assert!(error.to_string().contains(words), "{url}: {error}");
        assert!(!whole.contains("secr"), "{url}: {whole}");
        assert_eq!(error.kind(), StoreErrorKind::Setup);
    }
}
