//! Rollback on a real bucket with versions, packed files by Content-Encoding, and the edge that is told.

use crate::athena::{PUBLIC, STATE, Stage};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use serde_json::json;
use std::sync::Arc;
use tidemark_cron::edge::CloudFront;
use tidemark_local::{HUB, sdk_config};
use tidemark_sitemap::refresh::RefreshError;
use tidemark_sitemap::rollback::{self, Rollback, RolledBack};

fn settings(more: &str) -> String {
    format!(
        "base_url = \"https://a.example\"\nlastmod_zone = \"UTC\"\n[query]\nsql = \"SELECT loc, lastmod FROM pages ORDER BY loc\"\n\
         database = \"d\"\noutput = \"s3://{STATE}/athena/\"\n[publish]\nbucket = \"{PUBLIC}\"\n\
         edge_ttl_seconds = 0\n{more}\n[shards]\ntarget_urls = 100\nmax_urls = 120\n"
    )
}

/// `pages` pages, of which the first was edited on `day`.
fn rows(pages: u32, day: u32) -> serde_json::Value {
    let day = |page| if page == 0 { day } else { 1 };
    (0..pages).map(|page| json!([format!("/p/{page:06}"), format!("2025-10-{:02}", day(page)), "2025-01-01"])).collect()
}

pub(crate) async fn versions(stage: &Stage) {
    let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    stage.around.s3.put_bucket_versioning().bucket(PUBLIC).versioning_configuration(on).send().await.unwrap();
}

pub(crate) async fn roll_back(
    stage: &Stage,
    id: &str,
    to: Option<&str>,
    hold: bool,
) -> Result<RolledBack, RefreshError> {
    let dir = tempfile::tempdir().unwrap();
    let run = Rollback { site: "s", sitemap: None, id, to, dry_run: false, hold, work_dir: dir.path() };
    rollback::rollback(&stage.around, run).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_restores_the_bytes_of_the_run_before_and_another_one_undoes_it() {
    let mut stage = Stage::start().await;
    versions(&stage).await;
    stage.put("sites/s.toml", settings("")).await;
    let mut before = Vec::new();
    for (pages, day) in [(450, 1), (450, 2), (700, 3)] {
        stage.tell(json!({ "rows": rows(pages, day) }));
        stage.run("s").await.unwrap();
        before.push(stage.files().await);
    }
    let shards = |files: &std::collections::BTreeMap<String, Vec<u8>>, named: &[u8]| {
        let named = String::from_utf8_lossy(named).into_owned();
        files.clone().into_iter().filter(|(file, _)| named.contains(file.as_str())).collect::<Vec<_>>()
    };
    let back = roll_back(&stage, "back", None, false).await.unwrap();
    assert_eq!((back.restores.as_str(), back.urls_before, back.urls), ("run-2", 700, 450));
    let now = stage.files().await;
    let index = "sitemap-index.xml";
    assert!(shards(&now, &now[index]) == shards(&before[1], &before[1][index]));
    assert_eq!(roll_back(&stage, "back", None, false).await.unwrap().manifest, back.manifest, "a repeated trigger");

    assert_eq!(roll_back(&stage, "forward", None, false).await.unwrap().restores, "run-3");
    let now = stage.files().await;
    assert!(shards(&now, &now[index]) == shards(&before[2], &before[2][index]));

    let far = roll_back(&stage, "far", Some("run-1"), true).await.unwrap();
    assert_eq!((far.restores.as_str(), far.hold.as_deref()), ("run-1", Some("far")));
    let now = stage.files().await;
    assert!(shards(&now, &now[index]) == shards(&before[0], &before[0][index]));
    let unknown = roll_back(&stage, "x", Some("run-9"), false).await.unwrap_err().to_string();
    assert!(unknown.contains("run-9") && unknown.contains("forward"), "{unknown}");

    let held = stage.run("s").await.unwrap_err();
    assert!(held.contains("held since the rollback far"), "{held}");
    assert_eq!(rollback::release(&stage.around, "s", None, "release").await.unwrap().as_deref(), Some("far"));
    assert_eq!(stage.run("s").await.unwrap().urls, 700, "the next run publishes its rows again");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_old_version_of_every_file_nothing_is_rolled_back() {
    let mut stage = Stage::start().await;
    stage.put("sites/s.toml", settings("")).await;
    let none = roll_back(&stage, "early", None, false).await.unwrap_err().to_string();
    assert!(none.contains("no earlier sitemap"), "{none}");
    for day in [1, 2] {
        stage.tell(json!({ "rows": rows(450, day) }));
        stage.run("s").await.unwrap();
    }
    let before = stage.files().await;
    let unversioned = roll_back(&stage, "back", None, false).await.unwrap_err().to_string();
    assert!(unversioned.contains("sitemap-00001.xml.gz: it has no version"), "{unversioned}");
    assert!(stage.files().await == before);

    versions(&stage).await;
    for day in [3, 4] {
        stage.tell(json!({ "rows": rows(450, day) }));
        stage.run("s").await.unwrap();
    }
    let s3 = &stage.around.s3;
    // What a version holds is held against the manifest of the run that wrote it.
    let manifests = stage.keys(STATE, "sitemaps/s/manifests/").await;
    let manifest = s3.get_object().bucket(STATE).key(&manifests[2]).send().await.unwrap();
    let manifest = manifest.body.collect().await.unwrap().to_vec();
    let mut other: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    other["shards"][0]["file_hash"] = json!("0".repeat(32));
    s3.put_object().bucket(STATE).key(&manifests[2]).body(other.to_string().into_bytes().into()).send().await.unwrap();
    let before = stage.files().await;
    let damaged = roll_back(&stage, "back", None, false).await.unwrap_err().to_string();
    assert!(damaged.contains("sitemap-00001.xml.gz: its version holds something else"), "{damaged}");
    assert!(stage.files().await == before);
    s3.put_object().bucket(STATE).key(&manifests[2]).body(manifest.into()).send().await.unwrap();

    let listed = s3.list_object_versions().bucket(PUBLIC).prefix("sitemap-00001").send().await.unwrap();
    for version in listed.versions().iter().filter(|version| version.is_latest() != Some(true)) {
        let request = s3.delete_object().bucket(PUBLIC).key(version.key().unwrap());
        request.version_id(version.version_id().unwrap()).send().await.unwrap();
    }
    let before = stage.files().await;
    let expired = roll_back(&stage, "back", None, false).await.unwrap_err().to_string();
    assert!(expired.contains("sitemap-00001.xml.gz: its version has expired"), "{expired}");
    assert!(stage.files().await == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_files_are_of_a_packed_type_or_encoded_and_never_both() {
    let mut stage = Stage::start().await;
    stage.tell(json!({ "rows": rows(250, 1) }));
    let mut unpacked = Vec::new();
    for (more, end, kind, encoding) in [
        ("", ".xml.gz", "application/gzip", None),
        ("content_encoding = true", ".xml", "application/xml", Some("gzip")),
    ] {
        stage.put("sites/s.toml", settings(&format!("{more}\ngrace_hours = 0"))).await;
        let done = stage.run("s").await.unwrap();
        assert_eq!(done.published.files_new.len(), 3);
        let mut pages = Vec::new();
        for file in &done.published.files_new {
            assert!(file.ends_with(end), "{file}");
            let object = stage.around.s3.get_object().bucket(PUBLIC).key(file).send().await.unwrap();
            let index = stage.around.s3.head_object().bucket(PUBLIC).key("sitemap-index.xml").send().await.unwrap();
            assert_eq!((object.content_type(), object.content_encoding()), (Some(kind), encoding), "{file}");
            assert_eq!((index.content_type(), index.content_encoding()), (Some("application/xml"), None));
            pages.push(crate::edge::shard_pages(file, &object.body.collect().await.unwrap().to_vec()));
        }
        unpacked.push(pages);
    }
    assert_eq!(unpacked[0], unpacked[1], "the same pages under another name");
    stage.run("s").await.unwrap();
    let left = stage.keys(PUBLIC, "").await;
    assert!(left.iter().all(|file| !file.ends_with(".gz")), "the old files went after the grace: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_is_told_once_after_a_change_and_fails_no_run() {
    let mut stage = Stage::start().await;
    let api = format!("{}/2020-05-31/distribution", stage.cloud.endpoint());
    let wanted = "<DistributionConfig><CallerReference>test</CallerReference><Enabled>true</Enabled><Origins/>\
                  <DefaultCacheBehavior/></DistributionConfig>";
    let made = ureq::post(&api).send(wanted).unwrap().into_body().read_to_string().unwrap();
    let id = between(&made, "<Id>", "</Id>").to_owned();
    let list = || {
        let url = format!("{api}/{id}/invalidation");
        let listed = ureq::get(&url).call().unwrap().into_body().read_to_string().unwrap();
        let ids = listed.split("<Id>").skip(1).map(|rest| rest.split("</Id>").next().unwrap().to_owned());
        let one = |one: String| ureq::get(format!("{url}/{one}")).call().unwrap().into_body().read_to_string().unwrap();
        ids.map(one).collect::<Vec<_>>()
    };
    let clock = tidemark_runtime::clock::Clock::system();
    stage.around.edge = Some(Arc::new(CloudFront::new(sdk_config(&stage.cloud, HUB), clock)));
    stage.put("sites/s.toml", settings(&format!("prefix = \"maps\"\ndistribution = \"{id}\""))).await;
    stage.tell(json!({ "rows": rows(250, 1) }));
    let told = stage.run("s").await.unwrap().invalidated.unwrap();
    assert_eq!((told.path.as_str(), told.problem), ("/maps/*", None));
    assert!(stage.run("s").await.unwrap().invalidated.is_none(), "nothing changed");
    let all = list();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(between(&all[0], "<Path>", "</Path>"), "/maps/*");
    assert_eq!(between(&all[0], "<CallerReference>", "</CallerReference>"), "tidemark-s-run-1");

    stage.put("sites/s.toml", settings("prefix = \"maps\"\ndistribution = \"ENOSUCH\"")).await;
    stage.tell(json!({ "rows": rows(250, 2) }));
    let problem = stage.run("s").await.unwrap().invalidated.unwrap().problem.unwrap();
    assert!(problem.contains("404") && problem.contains("NoSuchDistribution"), "{problem}");
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let from = text.find(begin).unwrap_or_else(|| panic!("no {begin} in {text}")) + begin.len();
    &text[from..from + text[from..].find(end).unwrap()]
}
