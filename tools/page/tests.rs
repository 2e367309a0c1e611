//! The page as text: nothing from elsewhere, every plot with its marks, no value left out of the data.

use super::*;
use crate::tune::{Shares, report_of_a_small_cache, report_of_a_small_trace};

#[test]
fn the_page_needs_nothing_from_elsewhere_and_has_every_plot() {
    let (of_trace, of_cache) = (report_of_a_small_trace(&[]), report_of_a_small_cache());
    assert_eq!((plots(&of_trace).len(), plots(&of_cache).len()), (8, 4));
    for report in [of_trace, of_cache] {
        page_is_whole(&report);
    }
}

#[test]
fn a_plot_that_would_show_nothing_is_left_out() {
    let report = report_of_a_small_trace(&["--ssd-sizes", "0"]);
    let names: Vec<&str> = plots(&report).iter().map(|plot| plot.name).collect();
    assert_eq!(names, ["surface", "curves", "latency", "requests", "reuse", "working-set"]);
    page_is_whole(&report);
}

fn page_is_whole(report: &Report) {
    let page = page(report);
    for word in ["http://", "https://", "src=", "@import", "url("] {
        let found = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(word), "{word}");
    }
    for plot in plots(report) {
        assert!(page.contains(&format!("<figure id=\"{}\"", plot.name)));
        let drawn = ["<rect", "<polyline", "<polygon", "<circle", "<path", "<line"];
        let marks: usize = drawn.iter().map(|mark| plot.svg.matches(mark).count()).sum();
        assert!(plot.marks > 0 && marks >= plot.marks, "{}: {marks} of {}", plot.name, plot.marks);
        assert!(!plot.svg.contains("NaN") && !plot.svg.contains("inf"), "{}", plot.name);
    }
    assert!(page.contains(&escape(&report.sentence())));
    let others = [report.variants.len(), report.measured.len()];
    let heads = 1 + others.iter().filter(|&&rows| rows > 0).count();
    let rows = report.surface.len() + others.iter().sum::<usize>();
    assert_eq!(page.matches("<tr").count(), rows + heads);
}

#[test]
fn a_name_with_markup_in_it_stays_text() {
    let mut report = report_of_a_small_trace(&[]);
    report.trace = "</script><b>\"&".into();
    let page = page(&report);
    assert!(!page.contains("</script><b>") && page.contains("&lt;/script&gt;&lt;b&gt;&quot;&amp;"));
}

#[test]
fn replays_stand_in_the_page_as_predicted_and_as_measured() {
    let mut report = report_of_a_small_trace(&[]);
    assert!(!page(&report).contains("id=\"measured\""));
    let shares = |ram| Shares { ram, ssd: 0.25, disk: 0.75 - ram };
    report.measured = vec![Measured {
        trace: "t<1>".into(),
        block_bytes: 4096,
        ram_bytes: 1 << 30,
        ssd_bytes: 0,
        predicted: shares(0.5),
        measured: shares(0.4875),
        predicted_ssd_bytes_written: 0,
        measured_ssd_bytes_written: 0,
        predicted_mean_us: None,
        measured_mean_us: Some(150.0),
    }];
    let page = page(&report);
    for text in ["t&lt;1&gt;", "50.00 %, 48.75 % (-1.25)", "25.00 %, 26.25 % (+1.25)", "-, 150 us"] {
        assert!(page.contains(&format!("<td>{text}</td>")), "{text}");
    }
    page_is_whole(&report);
}

#[test]
fn a_report_without_a_recommendation_is_a_page_all_the_same() {
    let report = report_of_a_small_trace(&["--p99", "1us"]);
    let page = page(&report);
    assert!(page.contains("No recommendation: ") && page.contains("--p99 is kept by 0"));
}

#[test]
fn each_plot_is_written_to_a_file_of_its_own() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let report = report_of_a_small_trace(&[]);
    write_plots(&report, &directory.path().join("new/plots")).expect("room for small files");
    let files = std::fs::read_dir(directory.path().join("new/plots")).expect("it was made");
    assert_eq!(files.count(), plots(&report).len());
    assert!(write(&report, &directory.path().join("missing/page.html")).is_err());
}
