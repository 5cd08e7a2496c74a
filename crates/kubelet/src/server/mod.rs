//! The agent's own API.
use crate::{context::NodeContext, pod::manager::PodIndex};
use std::{io, sync::Arc};
use tokio::net::TcpListener;
pub struct Server;
impl Server {
    pub fn new(_: Arc<NodeContext>, _: PodIndex) -> io::Result<Self> {
        Ok(Server)
    }
    pub async fn run(self, _: TcpListener) {}
}
