//! The pages for people: one style, no assets from elsewhere.

use std::fmt::Write;
use std::net::{ToSocketAddrs, UdpSocket};

use hyper::StatusCode;

use crate::app::App;
use crate::http::{Answer, Call};

const SECTIONS: [(&str, &str); 8] = [
    ("request", "Request"),
    ("env", "Environment"),
    ("mem", "Memory"),
    ("liveness", "Liveness"),
    ("readiness", "Readiness"),
    ("dns", "DNS"),
    ("keygen", "Keys"),
    ("memq", "Queues"),
];

pub fn home(app: &App, call: &Call) -> Answer {
    section(app, call, "request")
}

pub fn section(app: &App, call: &Call, name: &str) -> Answer {
    let body = match name {
        "request" => request(call),
        "env" => environment(),
        "mem" => json(&app.memory.status()),
        "liveness" => json(&app.liveness.status()),
        "readiness" => json(&app.readiness.status()),
        "dns" => dns_form(),
        "keygen" => json(&app.keys.status(&app.keygen.borrow())),
        "memq" => json(&app.queues.stats()),
        _ => return Answer::error(StatusCode::NOT_FOUND, "there is no such page"),
    };
    let links: String = SECTIONS
        .iter()
        .map(|(path, title)| format!(r#"<a href="/-/{path}">{title}</a> "#))
        .collect();
    let head = format!(
        "<h1>kuard <small>{}</small></h1><p>{} · {}</p><nav>{links}<a href=\"/fs/\">Files</a></nav>",
        escape(&app.version),
        escape(&host_name()),
        escape(&addresses()),
    );
    Answer::html(document(&app.version, &format!("{head}{body}")))
}

/// A page without the app's frame.
pub fn plain(title: &str, body: &str) -> Answer {
    Answer::html(document("", &format!("<h1>{}</h1>{body}", escape(title))))
}

fn document(colour: &str, body: &str) -> String {
    let colour = match colour {
        "blue" => "#2a5db0",
        "green" => "#2c8c4a",
        "purple" => "#7a3db8",
        _ => "#555",
    };
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>kuard</title><style>\
         body{{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem}}\
         h1{{color:{colour};border-bottom:6px solid {colour}}}nav a{{margin-right:.8rem}}\
         pre,td{{font-family:ui-monospace,monospace}}td{{padding:0 1rem 0 0;vertical-align:top}}\
         </style><body>{body}</body></html>\n"
    )
}

fn request(call: &Call) -> String {
    let mut rows = vec![
        ("Client".to_owned(), call.peer.clone()),
        ("Method".to_owned(), call.method.to_string()),
        ("URL".to_owned(), call.target.clone()),
        ("Protocol".to_owned(), format!("{:?}", call.version)),
    ];
    let headers = call.headers.iter().map(|(name, value)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    rows.extend(headers);
    table(rows)
}

fn environment() -> String {
    let mut rows: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .collect();
    rows.sort();
    table(rows)
}

fn dns_form() -> String {
    "<form onsubmit=\"fetch('/dns/api',{method:'POST',body:JSON.stringify({type:t.value,name:n.value})})\
     .then(r=>r.json()).then(j=>o.textContent=j.result||j.message);return false\">\
     <select id=\"t\"><option>A<option>AAAA<option>SRV<option>CNAME<option>TXT<option>PTR</select> \
     <input id=\"n\" value=\"kubernetes.default\"> <button>Ask</button></form><pre id=\"o\"></pre>"
        .to_owned()
}

fn json(value: &serde_json::Value) -> String {
    format!("<pre>{}</pre>", escape(&format!("{value:#}")))
}

fn table(rows: Vec<(String, String)>) -> String {
    let mut text = String::from("<table>");
    for (name, value) in rows {
        write!(text, "<tr><td>{}<td>{}", escape(&name), escape(&value)).expect("text grows");
    }
    text + "</table>"
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The pod's own addresses: what its name stands for, or what it would send from.
fn addresses() -> String {
    let by_name = (host_name().as_str(), 0)
        .to_socket_addrs()
        .map(|found| found.map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", "));
    by_name.unwrap_or_else(|_| {
        // Connecting a datagram socket sends nothing; it only picks a route.
        UdpSocket::bind("0.0.0.0:0")
            .and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()))
            .map_or_else(|_| "no address".to_owned(), |address| address.ip().to_string())
    })
}
