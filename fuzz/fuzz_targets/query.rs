//! Any query of a list or watch, through the whole request path: an answer, and a server that goes on.

#![no_main]

use std::cell::RefCell;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use libfuzzer_sys::fuzz_target;
use skiff_apiserver::{ApiServer, ApiServerConfig, LocalService, UserInfo};
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// What asks in a fuzzed process: one server, and a runtime that polls it.
struct Asker {
    runtime: Runtime,
    service: LocalService,
}

thread_local! {
    static ASKER: RefCell<Option<Asker>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    let Ok(query) = std::str::from_utf8(input) else { return };
    ASKER.with_borrow_mut(|asker| {
        let asker = asker.get_or_insert_with(Asker::new);
        for path in ["/api/v1/namespaces/default/configmaps", "/api/v1/pods"] {
            asker.ask(&format!("{path}?{query}"));
        }
    });
});

impl Asker {
    fn new() -> Asker {
        let directory = std::env::temp_dir().join(format!("skiff-fuzz-{}", std::process::id()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        let server = runtime
            .block_on(ApiServer::build(ApiServerConfig::new(directory)))
            .expect("a new directory opens");
        let service = server.local(UserInfo::new("admin", &["system:masters"]));
        Asker { runtime, service }
    }

    /// Reads the first frame of the answer: a watch has no last one.
    fn ask(&mut self, uri: &str) {
        let Ok(uri) = uri.parse::<Uri>() else { return };
        let request = Request::get(uri).body(Full::new(Bytes::new())).expect("a request");
        let service = self.service.clone();
        self.runtime.block_on(async move {
            let response = service.oneshot(request).await.expect("every request is answered");
            assert_ne!(response.status().as_u16(), 500);
            let mut body = response.into_body();
            let frame = body.frame();
            let _ = tokio::time::timeout(std::time::Duration::ZERO, frame).await;
        });
    }
}
