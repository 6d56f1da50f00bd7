//! Batches: from samples to contiguous `[N, 3, H, W]` bytes, made by worker threads ahead of the consumer. The same seed gives the
//! same batches whatever the number of workers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::augment::{self, PixelBox, Warp};
use crate::dataset::Sample;
use crate::letterbox::{self, Fit, Letterbox};
use crate::{Error, Hyp, Image, Result, files, weights};

/// Some images and their boxes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// `[images, 3, height, width]`, R, G, B, 0..255: one tensor can be made of it without a copy.
    pub pixels: Vec<u8>,
    /// Height and width.
    pub size: [usize; 2],
    /// `[image, class, cx, cy, w, h]`, normalised to the batch's size, clipped to it.
    pub targets: Vec<[f32; 6]>,
    /// Where each image came from.
    pub images: Vec<Origin>,
    /// The process got nothing of this batch: its one image is another's and must not count.
    pub idle: bool,
}

impl Batch {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }
}

/// Origin of an image of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Origin {
    /// The file.
    pub path: PathBuf,
    /// Index of the sample.
    pub index: usize,
    /// Height and width of the file.
    pub original: [usize; 2],
    /// How the file was fitted into the batch (validation; meaningless for a mosaic).
    pub fit: Fit,
}

/// How batches are made.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    /// Long side of an image.
    pub size: usize,
    /// Images per batch.
    pub batch: usize,
    /// Augment and shuffle with these, or show every image once, letterboxed.
    pub augment: Option<Hyp>,
    /// Batches of similar shape, padded to it (`rect`), instead of squares. With augmentation: no mosaics, and in the order of the shapes.
    pub rect: bool,
    /// Extra border for `rect`, in strides (0.5 in validation).
    pub pad: f64,
    /// Sizes are multiples of this.
    pub stride: usize,
    /// Threads. They change the speed, never the batches.
    pub workers: usize,
    /// Seed of shuffling and augmentation.
    pub seed: u64,
    /// Most bytes that decoded images may take in memory; what does not fit is decoded again.
    pub cache_bytes: usize,
    /// Decoded images that memory doesn't keep are kept in a folder in this one, until the loader is gone.
    pub cache_folder: Option<PathBuf>,
}

/// A part of the work of several processes. Together the parts of a batch are the batch, image for image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub ranks: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { rank: 0, ranks: 1 }
    }
}

impl Shard {
    /// Its part of `count` things in a row: equal parts, the first ones longer by one where they can't be. May be empty.
    pub fn of(self, count: usize) -> std::ops::Range<usize> {
        let (ranks, rank) = (self.ranks.max(1), self.rank.min(self.ranks.max(1) - 1));
        let (each, more) = (count / ranks, count % ranks);
        let start = rank * each + rank.min(more);
        start..start + each + usize::from(rank < more)
    }
}

impl LoaderOptions {
    /// For training.
    pub fn train(size: usize, batch: usize, hyp: Hyp, seed: u64) -> Self {
        Self {
            size,
            batch,
            augment: Some(hyp),
            rect: false,
            pad: 0.0,
            stride: 32,
            workers: default_workers(),
            seed,
            cache_bytes: 2 << 30,
            cache_folder: None,
        }
    }

    /// For validation: as YOLOv5's `val.py` (rectangular batches, pad 0.5).
    pub fn val(size: usize, batch: usize) -> Self {
        Self {
            size,
            batch,
            augment: None,
            rect: true,
            pad: 0.5,
            stride: 32,
            workers: default_workers(),
            seed: 0,
            cache_bytes: 1 << 30,
            cache_folder: None,
        }
    }
}

/// One thread per core, at most eight.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().min(8))
}

/// Makes batches of a split.
#[derive(Debug, Clone)]
pub struct Loader {
    source: Arc<Source>,
}

#[derive(Debug)]
struct Source {
    samples: Vec<Sample>,
    options: LoaderOptions,
    /// Order of samples and shape `[h, w]` of each batch, where they are the same in all epochs.
    plan: Option<(Vec<usize>, Vec<[usize; 2]>)>,
    cache: Vec<OnceLock<Arc<Image>>>,
    cached_bytes: Mutex<usize>,
    /// Made with the first image that goes there, so that a loader which is only looked at leaves nothing behind.
    disk: Mutex<Option<tempfile::TempDir>>,
}

/// The images of an epoch.
#[derive(Debug)]
struct Order {
    members: Vec<usize>,
    /// Whether they were drawn by weight. Then mosaics are filled from the draw, too.
    drawn: bool,
}

/// Buffers of one worker, reused from image to image.
#[derive(Debug, Default)]
struct Scratch {
    canvas: Image,
    image: Image,
    other: Image,
    boxes: Vec<PixelBox>,
    other_boxes: Vec<PixelBox>,
    warp: Warp,
    row: Vec<u8>,
}

impl Loader {
    /// Prepares the order of the batches.
    ///
    /// # Errors
    /// [`Error::Settings`] where there are no samples, the batch size is 0, or the image size is no multiple of the stride (with the next
    /// one that is).
    pub fn new(samples: Vec<Sample>, options: LoaderOptions) -> Result<Self> {
        let refuse = |what: &str| Err(Error::Settings(what.to_owned()));
        if samples.is_empty() {
            return refuse("there are no images to load");
        }
        if options.batch == 0 {
            return refuse("the batch size is 0; use 1 or more");
        }
        if options.stride == 0 || options.size == 0 || !options.size.is_multiple_of(options.stride) {
            let (size, stride) = (options.size, options.stride.max(1));
            let near = size.div_ceil(stride).max(1) * stride;
            return refuse(&format!(
                "the image size {size} is not a multiple of the model's stride {stride}; use {near}"
            ));
        }
        let plan = match (&options.augment, options.rect) {
            (Some(_), false) => None,
            (_, true) => Some(rect_plan(&samples, &options)),
            (None, false) => {
                let batches = samples.len().div_ceil(options.batch);
                Some(((0..samples.len()).collect(), vec![[options.size; 2]; batches]))
            }
        };
        let cache = samples.iter().map(|_| OnceLock::new()).collect();
        Ok(Self {
            source: Arc::new(Source {
                samples,
                options,
                plan,
                cache,
                cached_bytes: Mutex::new(0),
                disk: Mutex::new(None),
            }),
        })
    }

    /// Number of batches per epoch.
    pub fn batches(&self) -> usize {
        self.source.samples.len().div_ceil(self.source.options.batch)
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.source.samples.len()
    }

    /// The samples in their own order.
    pub fn samples(&self) -> &[Sample] {
        &self.source.samples
    }

    /// How batches are made.
    pub fn options(&self) -> &LoaderOptions {
        &self.source.options
    }

    /// The batches of an epoch, in order, made ahead by the workers. Dropping the iterator stops them.
    pub fn epoch(&self, epoch: usize) -> Batches {
        self.start(epoch, Shard::default(), 0, 1)
    }

    /// As [`Loader::epoch`], but of each batch only its part for one of several processes. For one that gets nothing of a short batch, the
    /// first image, marked as [`Batch::idle`]: it takes part in the step, and a real image is as tame in the network as the others.
    pub fn part(&self, epoch: usize, shard: Shard) -> Batches {
        self.start(epoch, shard, 0, 1)
    }

    /// As [`Loader::part`], but of images that are drawn by their weight (see [`crate::weights`]), with replacement: all parts, and the
    /// same epoch with the same `class_maps`, come from the same draw.
    pub fn drawn(&self, epoch: usize, shard: Shard, class_maps: &[f64]) -> Batches {
        let weights = weights::image_weights(&self.source.samples, class_maps);
        let members = weights::draw(&weights, &mut self.source.rng(epoch, usize::MAX));
        self.make(epoch, Order { members, drawn: true }, shard, 0, 1)
    }

    /// As [`Loader::epoch`], but only some of the batches: for processes that share them, number rank, rank + ranks, ...
    pub fn some(&self, epoch: usize, Shard { rank, ranks }: Shard) -> Batches {
        self.start(epoch, Shard::default(), rank, ranks.max(1))
    }

    /// Batches `first`, `first + step`, ... of an epoch, of each its part for `shard`.
    fn start(&self, epoch: usize, shard: Shard, first: usize, step: usize) -> Batches {
        let members = self.source.order(epoch);
        self.make(epoch, Order { members, drawn: false }, shard, first, step)
    }

    fn make(&self, epoch: usize, order: Order, shard: Shard, first: usize, step: usize) -> Batches {
        let order = Arc::new(order);
        let total = self.batches().saturating_sub(first).div_ceil(step);
        let workers = self.source.options.workers.clamp(1, total.max(1));
        let (task, tasks) = unbounded::<usize>();
        let (done, results) = unbounded();
        for _ in 0..workers {
            let (source, order, tasks, done) = (self.source.clone(), order.clone(), tasks.clone(), done.clone());
            std::thread::spawn(move || {
                let mut scratch = Scratch::default();
                for index in tasks {
                    let work = || source.batch((epoch, first + index * step), shard, &order, &mut scratch);
                    // A panic would leave the consumer waiting for ever; the buffers are overwritten at each use.
                    let batch = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                    let batch = batch.unwrap_or(Err(Error::Worker));
                    if done.send((index, batch)).is_err() {
                        return;
                    }
                }
            });
        }
        let mut batches = Batches {
            task: Some(task),
            results,
            waiting: BTreeMap::new(),
            asked: 0,
            next: 0,
            total,
        };
        // So many batches are in the making or waiting at any time: the memory is bounded.
        (0..workers + 2).for_each(|_| batches.ask());
        batches
    }
}

/// Iterator over the batches of an epoch.
#[derive(Debug)]
pub struct Batches {
    task: Option<Sender<usize>>,
    results: Receiver<(usize, Result<Batch>)>,
    waiting: BTreeMap<usize, Result<Batch>>,
    asked: usize,
    next: usize,
    total: usize,
}

impl Batches {
    /// Has one more batch made; after the last one the workers end.
    fn ask(&mut self) {
        if let Some(task) = self.task.as_ref().filter(|_| self.asked < self.total) {
            // Nobody listens only if all workers died, which `next` reports.
            let _ = task.send(self.asked);
            self.asked += 1;
        }
        if self.asked == self.total {
            self.task = None;
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.total {
            return None;
        }
        loop {
            if let Some(batch) = self.waiting.remove(&self.next) {
                self.next += 1;
                self.ask();
                return Some(batch);
            }
            match self.results.recv() {
                Ok((index, batch)) => self.waiting.insert(index, batch),
                // No worker is left, which only a failure to start threads could do.
                Err(_) => {
                    self.next = self.total;
                    return Some(Err(Error::Worker));
                }
            };
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.total - self.next;
        (left, Some(left))
    }
}

/// Order and batch shapes of rectangular training and validation, as YOLOv5: sorted by aspect ratio, each batch as flat or tall as its
/// extreme image.
fn rect_plan(samples: &[Sample], o: &LoaderOptions) -> (Vec<usize>, Vec<[usize; 2]>) {
    let ratios: Vec<f64> = samples
        .iter()
        .map(|sample| sample.size[1] as f64 / sample.size[0] as f64)
        .collect();
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by(|a, b| ratios[*a].total_cmp(&ratios[*b]));
    let shapes = order
        .chunks(o.batch)
        .map(|chunk| {
            let min = chunk.iter().map(|i| ratios[*i]).fold(f64::INFINITY, f64::min);
            let max = chunk.iter().map(|i| ratios[*i]).fold(0.0, f64::max);
            let shape = if max < 1.0 {
                [max, 1.0]
            } else if min > 1.0 {
                [1.0, 1.0 / min]
            } else {
                [1.0, 1.0]
            };
            shape.map(|s| (s * o.size as f64 / o.stride as f64 + o.pad).ceil() as usize * o.stride)
        })
        .collect();
    (order, shapes)
}

impl Source {
    fn order(&self, epoch: usize) -> Vec<usize> {
        match &self.plan {
            Some((order, _)) => order.clone(),
            None => {
                let mut order: Vec<usize> = (0..self.samples.len()).collect();
                order.shuffle(&mut self.rng(epoch, usize::MAX));
                order
            }
        }
    }

    /// A generator of its own for each position of each epoch: batches don't depend on who makes them.
    fn rng(&self, epoch: usize, position: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ epoch as u64);
        rng.set_stream(position as u64);
        rng
    }

    fn batch(
        &self,
        (epoch, index): (usize, usize),
        shard: Shard,
        order: &Order,
        scratch: &mut Scratch,
    ) -> Result<Batch> {
        let o = &self.options;
        let first = index * o.batch;
        let whole = o.batch.min(order.members.len() - first);
        let part = shard.of(whole);
        let idle = part.is_empty();
        let part = if idle { 0..1 } else { part };
        let first = first + part.start;
        let members = &order.members[first..first + part.len()];
        let size = self.plan.as_ref().map_or([o.size; 2], |(_, shapes)| shapes[index]);
        let plane = size[0] * size[1];
        let mut batch = Batch {
            pixels: vec![0; members.len() * 3 * plane],
            size,
            idle,
            ..Batch::default()
        };
        for (slot, sample) in members.iter().enumerate() {
            let fit = match &o.augment {
                Some(hyp) => {
                    self.augmented((*sample, order), size, hyp, &mut self.rng(epoch, first + slot), scratch)?
                }
                None => self.plain(*sample, size, scratch)?,
            };
            planes(&scratch.image, &mut batch.pixels[slot * 3 * plane..][..3 * plane]);
            // Boxes end a thousandth of a pixel before the picture does, as in YOLOv5.
            let [h, w] = size.map(|side| side as f32);
            batch
                .targets
                .extend(scratch.boxes.iter().map(|[class, x1, y1, x2, y2]| {
                    let [x1, x2] = [x1, x2].map(|x| x.clamp(0.0, w - 1e-3));
                    let [y1, y2] = [y1, y2].map(|y| y.clamp(0.0, h - 1e-3));
                    [
                        slot as f32,
                        *class,
                        (x1 + x2) / 2.0 / w,
                        (y1 + y2) / 2.0 / h,
                        (x2 - x1) / w,
                        (y2 - y1) / h,
                    ]
                }));
            let Sample {
                image, size: [w0, h0], ..
            } = &self.samples[*sample];
            batch.images.push(Origin {
                path: image.clone(),
                index: *sample,
                original: [*h0, *w0],
                fit,
            });
        }
        Ok(batch)
    }

    /// The image with its long side at the loader's size.
    fn load(&self, index: usize) -> Result<Arc<Image>> {
        if let Some(loaded) = self.cache[index].get() {
            return Ok(loaded.clone());
        }
        let file = self.kept_file(index)?;
        if let Some(image) = file.as_ref().and_then(|file| self.read_kept(index, file)) {
            return Ok(Arc::new(image));
        }
        let image = Arc::new(self.decode(index)?);
        let mut held = self.cached_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if *held + image.data.len() <= self.options.cache_bytes && self.cache[index].set(image.clone()).is_ok() {
            *held += image.data.len();
        } else if let Some(file) = file {
            drop(held);
            files::write(&file, &image.data)?;
        }
        Ok(image)
    }

    /// Width and height of a sample with its long side at the loader's size.
    fn loaded_size(&self, index: usize) -> [usize; 2] {
        let [w, h] = self.samples[index].size;
        let ratio = self.options.size as f64 / h.max(w) as f64;
        [w, h].map(|length| ((length as f64 * ratio).ceil() as usize).clamp(1, self.options.size))
    }

    fn decode(&self, index: usize) -> Result<Image> {
        let sample = &self.samples[index];
        let image = Image::open(&sample.image)?;
        if [image.width, image.height] != sample.size {
            return Err(Error::image(&sample.image, "the file changed since its size was read"));
        }
        let longest = image.height.max(image.width);
        if longest == self.options.size {
            return Ok(image);
        }
        let [w, h] = self.loaded_size(index);
        // Training always interpolates; validation averages when it shrinks.
        Ok(if self.options.augment.is_some() || longest < self.options.size {
            letterbox::resize(&image, w, h)
        } else {
            letterbox::resize_area(&image, w, h)
        })
    }

    /// Where a decoded image is kept on the disk, if they are.
    fn kept_file(&self, index: usize) -> Result<Option<PathBuf>> {
        let Some(parent) = &self.options.cache_folder else {
            return Ok(None);
        };
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.is_none() {
            files::create_folder(parent)?;
            let folder = tempfile::Builder::new().prefix(".cache-").tempdir_in(parent);
            *disk = Some(folder.map_err(Error::io(parent, "make a folder in it"))?);
        }
        Ok(disk.as_ref().map(|folder| folder.path().join(format!("{index}.rgb"))))
    }

    /// An image that was kept, `None` where there is none yet.
    fn read_kept(&self, index: usize, file: &std::path::Path) -> Option<Image> {
        let data = crate::files::bytes(file).ok()?;
        let [width, height] = self.loaded_size(index);
        (data.len() == width * height * 3).then_some(Image { width, height, data })
    }

    /// Letterboxes into `scratch`; the result maps the file to the picture.
    fn plain(&self, index: usize, size: [usize; 2], scratch: &mut Scratch) -> Result<Fit> {
        let image = self.load(index)?;
        let sample = &self.samples[index];
        let scale_up = self.options.augment.is_some();
        let options = Letterbox {
            size,
            auto: false,
            stretch: false,
            scale_up,
            stride: self.options.stride,
        };
        let Fit { ratio, pad } = letterbox::letterbox_into(&image, &options, &mut scratch.image);
        let (w, h) = (image.width as f64 * ratio[0], image.height as f64 * ratio[1]);
        scratch.boxes.clear();
        augment::push_boxes(
            &mut scratch.boxes,
            &sample.boxes,
            [w as f32, h as f32],
            pad.map(|p| p as f32),
        );
        Ok(Fit {
            ratio: [w / sample.size[0] as f64, h / sample.size[1] as f64],
            pad,
        })
    }

    fn augmented(
        &self,
        (index, order): (usize, &Order),
        size: [usize; 2],
        hyp: &Hyp,
        rng: &mut ChaCha8Rng,
        scratch: &mut Scratch,
    ) -> Result<Fit> {
        let mut fit = Fit::default();
        // A mosaic is a square.
        if !self.options.rect && augment::chance(rng, hyp.mosaic) {
            self.mosaic((index, order), hyp, rng, scratch)?;
            if augment::chance(rng, hyp.mixup) {
                std::mem::swap(&mut scratch.image, &mut scratch.other);
                std::mem::swap(&mut scratch.boxes, &mut scratch.other_boxes);
                let partner = rng.random_range(0..self.samples.len());
                self.mosaic((partner, order), hyp, rng, scratch)?;
                let Scratch {
                    image,
                    other,
                    boxes,
                    other_boxes,
                    ..
                } = scratch;
                augment::mixup(image, boxes, other, other_boxes, rng);
            }
        } else {
            fit = self.plain(index, size, scratch)?;
            std::mem::swap(&mut scratch.image, &mut scratch.canvas);
            let Scratch {
                canvas,
                image,
                boxes,
                warp,
                ..
            } = scratch;
            augment::random_perspective(canvas, boxes, size, hyp, rng, warp, image);
        }
        let Scratch { image, boxes, .. } = scratch;
        augment::hsv(image, hyp, rng);
        if augment::chance(rng, hyp.flipud) {
            augment::flip_vertical(image, boxes);
        }
        if augment::chance(rng, hyp.fliplr) {
            augment::flip_horizontal(image, boxes);
        }
        Ok(fit)
    }

    fn mosaic(
        &self,
        (index, order): (usize, &Order),
        hyp: &Hyp,
        rng: &mut ChaCha8Rng,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let mut members = [index; 4];
        for member in &mut members[1..] {
            *member = rng.random_range(0..self.samples.len());
            if order.drawn {
                *member = order.members[*member];
            }
        }
        members.shuffle(rng);
        let [a, b, c, d] = members;
        let loaded = [self.load(a)?, self.load(b)?, self.load(c)?, self.load(d)?];
        let parts = std::array::from_fn(|i| (&*loaded[i], self.samples[members[i]].boxes.as_slice()));
        let Scratch {
            canvas,
            image,
            boxes,
            warp,
            row,
            ..
        } = scratch;
        augment::mosaic(self.options.size, parts, rng, canvas, boxes);
        augment::copy_paste(canvas, boxes, hyp.copy_paste, rng, row);
        augment::random_perspective(canvas, boxes, [self.options.size; 2], hyp, rng, warp, image);
        Ok(())
    }
}

/// Interleaved pixels to three planes.
fn planes(image: &Image, out: &mut [u8]) {
    let plane = image.width * image.height;
    let (red, rest) = out.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    for (((pixel, r), g), b) in image.data.chunks_exact(3).zip(red).zip(green).zip(blue) {
        (*r, *g, *b) = (pixel[0], pixel[1], pixel[2]);
    }
}
