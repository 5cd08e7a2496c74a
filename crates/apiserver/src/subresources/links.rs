//! Links in what a proxied server answers, led back through the proxy.
//!
//! A server behind `/api/v1/namespaces/x/pods/web/proxy` knows nothing of that path: its `/style.css` is ours only with the path
//! before it. URL of a page or a `Location` -> URL the client can follow. Counterpart: `rewriteURL` of
//! `apimachinery/pkg/util/proxy/transport.go`. Invariant: links to other hosts and relative ones stay as they are.

/// The way to a proxied server.
#[derive(Clone, Debug)]
pub struct Links {
    /// Path of the proxy, without a slash at its end.
    prefix: String,
    /// What the server may call itself: the address it was reached at, and what the client asked for.
    backend: String,
    asked: String,
}

impl Links {
    pub fn new(prefix: &str, backend: String, asked: String) -> Links {
        // Quotes could end the attribute the path is written into.
        let prefix = prefix.replace('\'', "%27").replace('"', "%22");
        Links { prefix, backend, asked }
    }

    /// The URL that leads there by way of the proxy, if it is another.
    pub fn through(&self, url: &str) -> Option<String> {
        let (origin, host, rest) = split(url.trim());
        let foreign = !host.is_empty() && host != self.backend && host != self.asked;
        let path = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
        if foreign || !path.starts_with('/') {
            return None;
        }
        let origin = if !host.is_empty() && host == self.asked { origin } else { "" };
        let led = match path.starts_with(&self.prefix) {
            true => format!("{origin}{rest}"),
            false => format!("{origin}{}{rest}", self.prefix),
        };
        (led != url).then_some(led)
    }
}

/// `scheme://host`, `host` and what follows them.
fn split(url: &str) -> (&str, &str, &str) {
    let scheme = url.find(':').filter(|end| is_scheme(&url[..*end])).map_or(0, |end| end + 1);
    let Some(after) = url[scheme..].strip_prefix("//") else {
        return (&url[..scheme], "", &url[scheme..]);
    };
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let path = url.len() - after.len() + end;
    (&url[..path], &after[..end], &url[path..])
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: &str) {
        let links = Links::new("/p/proxy", "10.0.0.7:80".to_owned(), "api:6443".to_owned());
        assert_eq!(links.through(url).as_deref().unwrap_or(url), expected, "{url}");
    }

    #[test]
    fn absolute_paths_go_through_the_proxy() {
        check("/", "/p/proxy/");
        check("/style.css", "/p/proxy/style.css");
        check("/list/?page=2#end", "/p/proxy/list/?page=2#end");
        check("//10.0.0.7:80/a", "/p/proxy/a");
        check("http://10.0.0.7:80/a", "/p/proxy/a");
        check("https://api:6443/a", "https://api:6443/p/proxy/a");
    }

    #[test]
    fn other_links_stay_as_they_are() {
        for url in [
            "",
            "style.css",
            "../up",
            "?page=2",
            "#end",
            "mailto:a@b",
            "javascript:go('/x')",
            "https://kubernetes.io/docs",
            "//kubernetes.io/docs",
            "/p/proxy/style.css",
            "data:image/png;base64,/9j",
        ] {
            check(url, url);
        }
    }

    #[test]
    fn the_path_of_a_proxy_cannot_end_an_attribute() {
        let links = Links::new("/it's", String::new(), String::new());
        assert_eq!(links.through("/a").as_deref(), Some("/it%27s/a"));
    }
}
