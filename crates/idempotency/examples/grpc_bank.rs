//! gRPC with tonic: `cargo run -p idempotency --features tower --example grpc_bank`. A client sends its key as the metadata
//! `idempotency-key`; a repeat gets the first answer with its status and trailers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use idempotency::tower::{Attempt, BoxError, IdempotencyLayer};
use idempotency::{Idempotency, stores};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// What is asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Money {
    /// In cents.
    #[prost(uint32, tag = "1")]
    pub amount: u32,
}

/// What was done.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Receipt {
    /// In words.
    #[prost(string, tag = "1")]
    pub text: String,
}

/// What happens once per key.
async fn pay(request: Request<Money>) -> Result<Response<Receipt>, Status> {
    let ledger = request.extensions().get::<Attempt>().map(|attempt| attempt.derive("ledger"));
    let text = format!("{} paid; booked under {ledger:?}", request.get_ref().amount);
    println!("{text}");
    Ok(Response::new(Receipt { text }))
}

/// What `tonic-prost-build` makes of `service Bank { rpc Pay(Money) returns (Receipt); }`, in short.
#[derive(Clone)]
struct Bank;

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
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Receipt, Money>::default());
        Box::pin(async move { Ok(grpc.unary(service_fn(pay), request).await) })
    }
}

/// Serves the bank.
pub async fn serve(incoming: TcpIncoming) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let layer = IdempotencyLayer::new(Idempotency::new(stores::open("memory://")?));
    Server::builder().layer(layer).add_service(Bank).serve_with_incoming(incoming).await?;
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "a test serves on a port of its own")]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    serve(TcpIncoming::bind("127.0.0.1:50051".parse()?)?).await
}
