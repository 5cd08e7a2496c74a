//! A webhook in the test: a TLS listener that answers each POST by a function and remembers what it was asked.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub struct Webhook {
    pub port: u16,
    /// Its own certificate, as a `caBundle`.
    pub bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = dyn Fn(&Value) -> (u16, Value) + Send + Sync;

impl Webhook {
    /// Listens on loopback; `answer` gets the body and gives status code and body.
    pub async fn start(answer: impl Fn(&Value) -> (u16, Value) + Send + Sync + 'static) -> Webhook {
        let names =
            vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "hook.default.svc".to_owned()];
        let own = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("a usable certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(tls)),
            asked.clone(),
            Arc::new(answer),
        ));
        let bundle = BASE64_STANDARD.encode(own.cert.pem());
        Webhook { port, bundle, asked, task }
    }

    /// One that gives a `response` to every AdmissionReview; its uid is filled in.
    pub async fn reviewing(response: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Webhook {
        Webhook::start(move |review| {
            let mut response = response(&review["request"]);
            response["uid"] = review["request"]["uid"].clone();
            (200, json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response }))
        })
        .await
    }

    /// Every body so far.
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().expect("no panic while held").clone()
    }

    pub fn client_config(&self) -> Value {
        json!({ "url": format!("https://127.0.0.1:{}/check", self.port), "caBundle": self.bundle })
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    asked: Arc<Mutex<Vec<Value>>>,
    answer: Arc<Answer>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, asked, answer) = (tls.clone(), asked.clone(), answer.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(tcp).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let (asked, answer) = (asked.clone(), answer.clone());
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let (code, reply) = answer(&body);
                    asked.lock().expect("no panic while held").push(body);
                    let reply = Full::new(Bytes::from(reply.to_string()));
                    let response = Response::builder().status(code);
                    let response = response.header("content-type", "application/json").body(reply);
                    Ok::<_, hyper::Error>(response.expect("well-formed"))
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
