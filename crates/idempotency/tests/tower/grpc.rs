//! gRPC, as tonic's servers and clients speak it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream;
use http::uri::PathAndQuery;
use idempotency::tower::{Attempt, BoxError, GrpcStreams, IdempotencyLayer};
use idempotency::{AfterCrash, Idempotency};
use tonic::server::NamedService;
use tonic::service::{LayerExt as _, Routes};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use super::support::{Gate, Keeper, PATIENCE, gate, layer, soon, with};

#[derive(Clone, PartialEq, prost::Message)]
struct Money {
    #[prost(uint32, tag = "1")]
    amount: u32,
    /// The status of the answer.
    #[prost(int32, tag = "2")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Receipt {
    #[prost(string, tag = "1")]
    text: String,
}

/// As a build script would make it of `service Bank`: a unary call, a stream of answers, a stream of requests.
#[derive(Clone)]
struct Bank(Gate);

impl NamedService for Bank {
    const NAME: &'static str = "bank.Bank";
}

impl<B> Service<http::Request<B>> for Bank
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let gate = self.0.clone();
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Receipt, Money>::default());
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/bank.Bank/Pay" => grpc.unary(service_fn(|request| pay(gate.clone(), request)), request).await,
                "/bank.Bank/Watch" => {
                    grpc.server_streaming(service_fn(|_: Request<Money>| watch(gate.clone())), request).await
                }
                _ => grpc.client_streaming(service_fn(|request| deposit(gate.clone(), request)), request).await,
            })
        })
    }
}

async fn pay(gate: Gate, request: Request<Money>) -> Result<Response<Receipt>, Status> {
    let derived = request.extensions().get::<Attempt>().map(|attempt| attempt.derive("ledger"));
    let run = gate.arrive();
    if request.get_ref().amount == 404 {
        gate.wait().await;
    }
    let code = Code::from(request.get_ref().code);
    if code != Code::Ok {
        let mut status = Status::with_details(code, format!("run {run}: 100 % ä"), vec![1, 2].into());
        status.metadata_mut().insert("x-run", run.into());
        return Err(status);
    }
    let text = format!("run {run} {}", "x".repeat(request.get_ref().amount as usize));
    let mut response = Response::new(Receipt { text });
    response.metadata_mut().insert("x-protected", derived.is_some().to_string().parse().unwrap());
    Ok(response)
}

async fn watch(gate: Gate) -> Result<Response<stream::Iter<std::vec::IntoIter<Result<Receipt, Status>>>>, Status> {
    let run = gate.arrive();
    let parts: Vec<_> = (1..4).map(|part| Ok(Receipt { text: format!("run {run} part {part}") })).collect();
    Ok(Response::new(stream::iter(parts)))
}

async fn deposit(gate: Gate, request: Request<Streaming<Money>>) -> Result<Response<Receipt>, Status> {
    let (run, mut all, mut sum) = (gate.arrive(), request.into_inner(), 0);
    while let Some(money) = all.message().await? {
        sum += money.amount;
    }
    Ok(Response::new(Receipt { text: format!("run {run} sum {sum}") }))
}

/// A client of a bank under a layer.
async fn bank(layer: IdempotencyLayer) -> (Client, Keeper) {
    let (gate, keeper) = gate();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder().layer(layer).add_service(Bank(gate)).serve_with_incoming(incoming);
    tokio::spawn(server);
    (Client::connect(address).await, keeper)
}

#[derive(Clone)]
struct Client(tonic::client::Grpc<Channel>);

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self(tonic::client::Grpc::new(channel))
    }

    fn request<T>(key: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !key.is_empty() {
            request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
        }
        request
    }

    async fn send(&mut self, request: Request<Money>) -> Result<Response<Receipt>, Status> {
        self.0.ready().await.unwrap();
        let codec = ProstCodec::<Money, Receipt>::default();
        soon(self.0.unary(request, PathAndQuery::from_static("/bank.Bank/Pay"), codec)).await
    }

    async fn pay(&mut self, key: &str, amount: u32, code: Code) -> Result<Response<Receipt>, Status> {
        self.send(Self::request(key, Money { amount, code: code.into() })).await
    }

    async fn watch(&mut self, key: &str) -> (bool, Vec<String>) {
        self.0.ready().await.unwrap();
        let codec = ProstCodec::<Money, Receipt>::default();
        let request = Self::request(key, Money::default());
        let path = PathAndQuery::from_static("/bank.Bank/Watch");
        let answer = soon(self.0.server_streaming(request, path, codec)).await.unwrap();
        let is_replay = answer.metadata().contains_key("idempotent-replayed");
        let (mut parts, mut all) = (answer.into_inner(), vec![]);
        while let Some(part) = soon(parts.message()).await.unwrap() {
            all.push(part.text);
        }
        (is_replay, all)
    }

    async fn deposit(&mut self, key: &str, amounts: &[u32]) -> Result<Response<Receipt>, Status> {
        self.0.ready().await.unwrap();
        let codec = ProstCodec::<Money, Receipt>::default();
        let all: Vec<_> = amounts.iter().map(|amount| Money { amount: *amount, code: 0 }).collect();
        let path = PathAndQuery::from_static("/bank.Bank/Deposit");
        soon(self.0.client_streaming(Self::request(key, stream::iter(all)), path, codec)).await
    }
}

/// Metadata without the mark of a replay, and what changes by itself.
fn plain(metadata: &tonic::metadata::MetadataMap) -> http::HeaderMap {
    let mut plain = metadata.clone().into_headers();
    plain.remove("idempotent-replayed");
    plain.remove("date");
    plain
}

#[tokio::test]
async fn a_unary_answer_is_replayed_with_its_metadata() {
    let (mut bank, keeper) = bank(layer()).await;
    let first = bank.pay("1", 3, Code::Ok).await.unwrap();
    let repeat = bank.pay("1", 3, Code::Ok).await.unwrap();
    assert_eq!((first.get_ref().text.as_str(), keeper.runs()), ("run 1 xxx", 1));
    assert_eq!(first.metadata().get("x-protected").unwrap(), "true");
    assert!(!first.metadata().contains_key("idempotent-replayed"));
    assert_eq!(repeat.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(plain(repeat.metadata()), plain(first.metadata()));
    assert_eq!(repeat.into_inner(), first.into_inner());
    let keyless = bank.pay("", 3, Code::Ok).await.unwrap();
    assert_eq!(keyless.metadata().get("x-protected").unwrap(), "false");
}

#[tokio::test]
async fn what_becomes_of_a_key_is_decided_by_the_status() {
    let (mut bank, keeper) = bank(layer()).await;
    for code in 1..=16 {
        let (key, code) = (format!("key-{code}"), Code::from(code));
        let runs = keeper.runs();
        let first = bank.pay(&key, 0, code).await.unwrap_err();
        let repeat = bank.pay(&key, 0, code).await.unwrap_err();
        assert_eq!((first.code(), repeat.code()), (code, code));
        let is_stored = [3, 5, 6, 9, 11].contains(&(code as i32));
        assert_eq!(keeper.runs(), runs + if is_stored { 1 } else { 2 }, "{code:?}");
        assert_eq!(repeat.metadata().contains_key("idempotent-replayed"), is_stored);
        if is_stored {
            assert_eq!((repeat.message(), repeat.details()), (first.message(), first.details()));
            assert_eq!(plain(repeat.metadata()), plain(first.metadata()));
        }
    }
}

#[tokio::test]
async fn a_stream_of_answers_is_replayed() {
    let (mut bank, keeper) = bank(layer()).await;
    let (first, repeat) = (bank.watch("1").await, bank.watch("1").await);
    assert_eq!(first, (false, vec!["run 1 part 1".into(), "run 1 part 2".into(), "run 1 part 3".into()]));
    assert_eq!((repeat.0, repeat.1, keeper.runs()), (true, first.1, 1));
}

/// What a refusal is to a client of tonic's.
fn told(status: &Status) -> (Code, &str, &str) {
    let told = |name: &str| status.metadata().get(name).map_or("", |value| value.to_str().unwrap());
    (status.code(), told("idempotency-refusal"), told("idempotency-effect"))
}

#[tokio::test]
async fn a_stream_of_requests_is_refused_or_passes_by_choice() {
    let (mut refusing, keeper) = bank(layer()).await;
    let refused = refusing.deposit("1", &[1, 2]).await.unwrap_err();
    assert_eq!((told(&refused), keeper.runs()), ((Code::Unimplemented, "stream", "none"), 0));
    // One message is none.
    let one = refusing.deposit("2", &[7]).await.unwrap().into_inner();
    let repeat = refusing.deposit("2", &[7]).await.unwrap().into_inner();
    assert_eq!((one.text.as_str(), repeat.text.as_str()), ("run 1 sum 7", "run 1 sum 7"));
    assert_eq!(refusing.deposit("", &[1, 2]).await.unwrap().into_inner().text, "run 2 sum 3");
    let (mut passing, keeper) = bank(layer().grpc_streams(GrpcStreams::Pass)).await;
    for run in 1..3 {
        let passed = passing.deposit("1", &[1, 2, 3]).await.unwrap().into_inner();
        assert_eq!((passed.text, keeper.runs()), (format!("run {run} sum 6"), run));
    }
}

#[tokio::test]
async fn refusals_are_statuses() {
    let (mut small, mut keeper) = bank(layer().required(true).max_request_bytes(12).max_response_bytes(200)).await;
    let refused = small.pay("", 1, Code::Ok).await.unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, "key-missing", "none"));
    let refused = small.pay("\"open", 1, Code::Ok).await.unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, "key-invalid", "none"));
    let refused = small.pay("1", 1 << 30, Code::Internal).await.unwrap_err();
    assert_eq!(told(&refused), (Code::ResourceExhausted, "payload-too-large", "none"));
    small.pay("2", 1, Code::Ok).await.unwrap();
    let refused = small.pay("2", 2, Code::Ok).await.unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, "conflict", "none"));
    small.pay("3", 300, Code::Ok).await.unwrap();
    let refused = small.pay("3", 300, Code::Ok).await.unwrap_err();
    assert_eq!(told(&refused), (Code::AlreadyExists, "not-kept", "done"));
    for _ in 0..keeper.runs() {
        keeper.arrived().await;
    }
    let first = tokio::spawn({
        let mut small = small.clone();
        async move { small.pay("4", 404, Code::InvalidArgument).await }
    });
    keeper.arrived().await;
    let refused = small.pay("4", 404, Code::InvalidArgument).await.unwrap_err();
    assert_eq!(told(&refused), (Code::Unavailable, "processing", "running"));
    assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
    keeper.open(1);
    soon(first).await.unwrap().unwrap_err();
    let mut request = Client::request("5", Money::default());
    request.metadata_mut().insert("authorization", "Bearer a".parse().unwrap());
    assert_eq!(told(&small.send(request).await.unwrap_err()), (Code::Internal, "scope-missing", "none"));

    let (mut refusing, _keeper) = bank(with(AfterCrash::Refuse, PATIENCE)).await;
    refusing.pay("1", 1, Code::Internal).await.unwrap_err();
    let refused = refusing.pay("1", 1, Code::Internal).await.unwrap_err();
    assert_eq!(told(&refused), (Code::FailedPrecondition, "unknown", "unknown"));

    let store = super::stores::Faulty::new();
    store.fail("claim");
    let (mut down, _keeper) = bank(IdempotencyLayer::new(Idempotency::new(store))).await;
    let refused = down.pay("1", 1, Code::Ok).await.unwrap_err();
    assert_eq!(told(&refused), (Code::Unavailable, "store-unavailable", "none"));
}

#[tokio::test]
async fn one_service_of_a_server_may_have_a_layer_of_its_own() {
    let (gate, keeper) = gate();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let routes = Routes::new(layer().named_layer(Bank(gate)));
    tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(incoming));
    let mut bank = Client::connect(address).await;
    let first = bank.pay("1", 1, Code::Ok).await.unwrap().into_inner();
    assert_eq!((bank.pay("1", 1, Code::Ok).await.unwrap().into_inner(), keeper.runs()), (first, 1));
}

#[tokio::test]
async fn a_call_that_is_given_up_runs_on() {
    let (mut bank, mut keeper) = bank(layer()).await;
    let mut request = Client::request("1", Money { amount: 404, code: 3 });
    request.set_timeout(std::time::Duration::from_millis(50));
    let given_up = bank.send(request).await.unwrap_err();
    assert!([Code::Cancelled, Code::DeadlineExceeded].contains(&given_up.code()), "{given_up:?}");
    keeper.arrived().await;
    keeper.open(1);
    let repeat = soon(async {
        loop {
            let told = bank.pay("1", 404, Code::InvalidArgument).await.unwrap_err();
            if told.code() == Code::InvalidArgument {
                return told;
            }
            tokio::task::yield_now().await;
        }
    });
    let repeat = repeat.await;
    assert!(repeat.message().starts_with("run 1") && repeat.metadata().contains_key("idempotent-replayed"));
    assert_eq!(keeper.runs(), 1);
}
