//! `--check`: are the settings right, and does the registry take us? One line for each item on stdout.
//!
//! Goes as far as the open WebSocket and does not register, so that a running sidecar of the same name is left alone.

use crate::config::Config;
use crate::signaling::{self, Settings};

/// Tries everything that can be tried without joining. Gives true if all is well.
pub async fn run(config: &Config) -> bool {
    println!("settings: ok");
    let mut well = socket_folder(config);
    well &= identity(config);
    for (item, result) in signaling::probe(&Settings::new(config, String::new())).await {
        match result {
            Ok(found) => println!("{item}: ok, {found}"),
            Err(why) => {
                println!("{item}: failed, {why}");
                well = false;
            }
        }
    }
    well
}

fn socket_folder(config: &Config) -> bool {
    let path = &config.ipc_socket;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    // sun_path holds 108 bytes with its NUL on Linux and 104 elsewhere; a longer path fails only at bind.
    let why = match std::fs::metadata(folder) {
        Err(e) => format!("{}: {e}", folder.display()),
        Ok(meta) if !meta.is_dir() => format!("{} is no folder", folder.display()),
        Ok(_) if path.as_os_str().len() > 103 => format!("{} is longer than 103 bytes", path.display()),
        Ok(_) => {
            println!("socket: ok, {}", path.display());
            return true;
        }
    };
    println!("socket: failed, {why}");
    false
}

fn identity(config: &Config) -> bool {
    let Some(path) = &config.identity_file else { return true };
    let why = match std::fs::read_to_string(path) {
        Err(e) => e.to_string(),
        Ok(pem) if !pem.contains("PRIVATE KEY-----") => "holds no private key".to_owned(),
        Ok(pem) if !pem.contains("-----BEGIN CERTIFICATE-----") => "holds no certificate".to_owned(),
        Ok(_) => {
            println!("identity: ok, {}", path.display());
            return true;
        }
    };
    println!("identity: failed, {}: {why}", path.display());
    false
}
