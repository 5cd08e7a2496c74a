//! SPDY/3.1 and WebSocket channel framing shared by both ends of exec, attach and port-forward.
