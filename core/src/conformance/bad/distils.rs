//! Distillers.

use tch::{Kind, Tensor};

use super::super::{Report, distiller};
use super::{every_check_refuses, faulty};
use crate::distil::{DistilBatch, DistilNeeds, Distiller, Layout, align_specs};
use crate::{ParamSpec, Result};

faulty!(BadDistiller);

#[typetag::serde(name = "bad-distiller")]
impl Distiller for BadDistiller {
    fn needs(&self) -> DistilNeeds {
        DistilNeeds {
            neck: !self.is("it looks at something"),
            ..DistilNeeds::default()
        }
    }

    fn parts(&self) -> Vec<String> {
        if self.is("the parts of its loss have names") {
            return vec!["Mean Square".into()];
        }
        vec!["square".into()]
    }

    fn adapters(&self, student: &Layout, teacher: &Layout) -> Result<Vec<ParamSpec>> {
        let mut specs = align_specs(student, teacher);
        if self.is("its adapters can be trained")
            && let Some(spec) = specs.first_mut()
        {
            spec.role = crate::ParamRole::Buffer;
        }
        Ok(specs)
    }

    fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<Tensor>> {
        let mut total = Tensor::from(0f32);
        let mut elements = 0;
        for (level, teacher) in batch.teacher.neck.iter().enumerate() {
            let mut map = batch.aligned(level)?;
            match self.fault.as_str() {
                "gradients reach the student and every adapter" => map = map.detach() + map * 0.0,
                "the loss falls as fast as its gradient says" => map = &map * 0.5 + map.detach() * 0.5,
                "a student that equals its teacher has the least to learn" => map = map.f_neg()?,
                "large maps have a finite loss and finite gradients" => map = map.f_exp()?.f_log()?,
                _ => {}
            }
            let apart = map.f_sub(teacher)?.f_square()?;
            elements += apart.numel();
            total = total.f_add(&apart.f_sum(None::<Kind>)?)?;
        }
        let mut loss = total.f_div_scalar(elements as f64)?;
        match self.fault.as_str() {
            "a student unlike its teacher has a finite loss above zero" => loss = loss.f_neg()?,
            "the loss is a mean over the images" => loss = loss.f_mul_scalar(elements as f64)?,
            "the same batch has the same loss" => loss = loss.f_mul_scalar(drifting())?,
            "maps of zeros have a finite loss and finite gradients" => loss = loss.f_sqrt()?,
            _ => {}
        }
        Ok(vec![loss])
    }
}

/// A factor near 1 that is another one each time.
fn drifting() -> f64 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static CALLS: AtomicU32 = AtomicU32::new(0);
    1.0 + 1e-4 * f64::from(CALLS.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn distillers() {
    let report = |fault: &str| -> Report { distiller(&BadDistiller::breaks(fault)) };
    every_check_refuses(&report(""), report);
}

/// Other ways to break the same checks.
#[test]
fn parts_that_are_none() {
    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    struct Counts(usize);

    #[typetag::serde(name = "bad-counts")]
    impl Distiller for Counts {
        fn needs(&self) -> DistilNeeds {
            DistilNeeds {
                raw: true,
                ..DistilNeeds::default()
            }
        }
        fn parts(&self) -> Vec<String> {
            vec!["one".into()]
        }
        fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<Tensor>> {
            Ok(match self.0 {
                0 => Vec::new(),
                _ => vec![batch.student.raw[0].f_square()?],
            })
        }
    }

    for (count, words) in [(0, "0 losses for its 1 parts"), (1, "is a tensor of shape")] {
        let report = distiller(&Counts(count));
        let first = report.failures().next().expect("a failure");
        assert_eq!(first.what, "a student unlike its teacher has a finite loss above zero");
        assert!(
            first.failure.as_deref().unwrap_or_default().contains(words),
            "{first:?}"
        );
    }
}
