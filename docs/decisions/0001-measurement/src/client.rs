// SPDX-License-Identifier: Apache-2.0
//! Makes requests of one server. `client run ping|get|set N`: N requests, one after the other.
//! `client latency N`: pairs of Ping and changing Set with 1 ms between calls; prints medians in us.

use std::time::{Duration, Instant};

use zbus::{Connection, Variant};

const N: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
const PROPS: &str = "org.freedesktop.DBus.Properties";

async fn one(conn: &Connection, what: &str, i: usize) -> zbus::Result<()> {
    match what {
        "ping" => conn.call_method(Some(N), PATH, Some("org.freedesktop.DBus.Peer"), "Ping", &()).await?,
        "get" => conn.call_method(Some(N), PATH, Some(PROPS), "Get", &(N, "SysACPIStatus")).await?,
        _ => {
            let value = format!("{N}.ACPI.{}", if i % 2 == 0 { "S2_D2" } else { "S0_G0_D0" });
            conn.call_method(Some(N), PATH, Some(PROPS), "Set", &(N, "SysACPIStatus", Variant::from(value.as_str()))).await?
        }
    };
    Ok(())
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

fn main() -> zbus::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let conn = zbus::connection::Builder::session().method_timeout(Duration::from_secs(20)).build().await?;
        for _ in 0..2000 {
            if one(&conn, "ping", 0).await.is_ok() { break }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if args[1] == "latency" {
            let n: usize = args[2].parse().unwrap();
            for i in 0..50 { one(&conn, "set", i).await?; one(&conn, "get", i).await?; }
            let (mut p, mut g, mut s, mut r) = (vec![], vec![], vec![], vec![]);
            for i in 0..n {
                let mut t = [0.0; 3];
                for (k, what) in ["ping", "get", "set"].iter().enumerate() {
                    std::thread::sleep(Duration::from_millis(1));
                    let begin = Instant::now();
                    one(&conn, what, i).await?;
                    t[k] = begin.elapsed().as_secs_f64() * 1e6;
                }
                p.push(t[0]); g.push(t[1]); s.push(t[2]); r.push(t[2] / t[0]);
            }
            println!("{:.1} {:.1} {:.1} {:.3}", median(&mut p), median(&mut g), median(&mut s), median(&mut r));
        } else {
            let n: usize = args[3].parse().unwrap();
            for i in 0..100 { for w in ["ping", "get", "set"] { one(&conn, w, i).await?; } }
            for i in 0..n { one(&conn, &args[2], i).await?; }
        }
        Ok(())
    })
}
