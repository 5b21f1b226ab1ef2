//! `trimoe inspect`.

use super::options::Options;
use super::summary::{bytes, count, table, write_json};
use super::terminal::say;
use crate::error::Result;
use crate::moe::FfnKind;
use crate::train::accounting::Accounting;
use crate::train::checkpoint::{Description, RunFolder};

pub(super) fn run(options: Options) -> Result<u8> {
    let checkpoint = options.checkpoint.as_ref().map(RunFolder::open_checkpoint).transpose()?;
    let (model, train) = match &checkpoint {
        Some(checkpoint) => {
            let Description { model, train, .. } = checkpoint.description().clone();
            let (model, train) = options.apply(model, train)?;
            checkpoint.check_model(&model)?;
            (model, train)
        }
        None => options.resolve()?,
    };
    let kinds = match (options.ffn, &options.checkpoint) {
        (None, None) => vec![FfnKind::Dense, FfnKind::Flat, FfnKind::Clustered],
        _ => vec![model.ffn],
    };
    let account = |&ffn: &FfnKind| Accounting::new(&model.variant(ffn), train.precision);
    let accounts = kinds.iter().map(account).collect::<Result<Vec<_>>>()?;
    print(&accounts)?;
    if let Some(checkpoint) = &checkpoint {
        let packed = checkpoint.description().packed;
        say(format_args!(
            "Stored: {} of weights{}, {} of what training goes on from.",
            bytes(checkpoint.model_bytes()),
            packed.map_or_else(String::new, |int4| format!(", residuals in INT4 ({int4})")),
            bytes(checkpoint.optimizer_bytes())
        ))?;
    }
    write_json(options.json.as_deref(), &accounts)?;
    Ok(0)
}

fn print(accounts: &[Accounting]) -> Result<()> {
    let Some(first) = accounts.first() else { return Ok(()) };
    let m = &first.model;
    say(format_args!(
        "{} layers, hidden {}, {} heads, vocab {}, seq {}; {} experts of inner {} in {} clusters, top-{}, rank {}",
        m.layers,
        m.hidden,
        m.heads,
        m.vocab,
        m.seq,
        m.experts,
        accounts.last().map_or(m.inner, |a| a.model.inner),
        m.clusters,
        m.topk,
        m.rank
    ))?;
    let mut header = vec![""];
    header.extend(accounts.iter().map(|a| a.model.ffn.name()));
    let row = |name: &str, show: &dyn Fn(&Accounting) -> String| {
        std::iter::once(name.to_owned()).chain(accounts.iter().map(show)).collect::<Vec<_>>()
    };
    let mut rows = vec![
        row("inner", &|a| a.model.inner.to_string()),
        row("parameters", &|a| count(a.params_total)),
        row("  embedding (tied with head)", &|a| count(a.params.embedding)),
        row("  attention", &|a| count(a.params.attention)),
        row("  norms", &|a| count(a.params.norms)),
        row("  router", &|a| count(a.params.router)),
        row("  expert", &|a| count(a.params.expert)),
        row("active per token", &|a| count(a.active_params)),
        row("expert share of flat", &|a| {
            a.expert_share_of_flat.map_or_else(|| "-".into(), |share| format!("{:.2} %", 100.0 * share))
        }),
        row("expert bytes, bf16", &|a| bytes(a.expert_bytes)),
        row("  with INT4 residuals", &|a| a.expert_bytes_int4.map_or_else(|| "-".into(), bytes)),
        row("MFLOP/token forward", &|a| format!("{:.2}", a.mflop_forward)),
        row("MFLOP/token training", &|a| format!("{:.2}", a.mflop_training)),
        row(&format!("training state ({})", first.precision), &|a| bytes(a.training_bytes)),
    ];
    for exchange in accounts.iter().flat_map(|a| &a.all_to_all).map(|cost| cost.exchange) {
        let cost = |a: &Accounting| a.all_to_all.iter().find(|c| c.exchange == exchange).copied();
        rows.push(row(&format!("all-to-all B/token: {}", exchange.name()), &|a| {
            cost(a).map_or_else(
                || "-".into(),
                |c| format!("{:.0} ({:.3} rows)", c.bytes_per_token, c.rows_per_layer),
            )
        }));
    }
    say(format_args!("{}", table(&header, rows)))?;
    let ranks = accounts.iter().map(|a| a.ranks).max().unwrap_or(1);
    say(format_args!(
        "Training state: weights, gradients and optimiser state, without activations. All-to-all: {ranks} ranks, \
         uniform routing,\ndispatch and return over all layers; in brackets the rows dispatched per token and layer."
    ))
}
