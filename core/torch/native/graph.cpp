// CUDA graphs: work that is recorded once and launched as a whole, and a backward from given gradients. The first needs CUDA's headers
// (YOLO_CUDA_HEADERS); without them it says so.

#include "native.h"

#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <optional>
#include <stdexcept>

#ifdef YOLO_CUDA_HEADERS
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace {

struct Recording {
    at::cuda::CUDAGraph graph;
    c10::cuda::CUDAStream stream;
    std::optional<c10::cuda::CUDAStreamGuard> guard;

    explicit Recording(c10::DeviceIndex device) : stream(c10::cuda::getStreamFromPool(false, device)) {}
};

} // namespace
#endif

extern "C" {

// Back from `outputs` with their gradients, to the leaves.
char *yolo_backward(const yolo::Handle *outputs, const yolo::Handle *gradients, size_t count) {
    YOLO_GUARD({ torch::autograd::backward(yolo::list(outputs, count), yolo::list(gradients, count)); })
}

// A recording to be made; freed by yolo_graph_free.
char *yolo_graph_new(int device, void **out) {
#ifdef YOLO_CUDA_HEADERS
    YOLO_GUARD({ *out = new Recording(static_cast<c10::DeviceIndex>(device)); })
#else
    (void)device;
    (void)out;
    return strdup("CUDA graphs need CUDA's headers beside PyTorch when yolo's library is built for it");
#endif
}

// From here to yolo_graph_end what this thread launches is recorded instead of run. Memory comes from the pool of `before`, or a new one.
char *yolo_graph_begin(void *recording, void *before) {
#ifdef YOLO_CUDA_HEADERS
    YOLO_GUARD({
        auto *own = static_cast<Recording *>(recording);
        c10::cuda::device_synchronize();
        own->guard.emplace(own->stream);
        try {
            if (before) {
                own->graph.capture_begin(static_cast<Recording *>(before)->graph.pool(), cudaStreamCaptureModeThreadLocal);
            } else {
                own->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
            }
        } catch (...) {
            own->guard.reset();
            throw;
        }
    })
#else
    (void)recording;
    (void)before;
    return nullptr;
#endif
}

char *yolo_graph_end(void *recording) {
#ifdef YOLO_CUDA_HEADERS
    YOLO_GUARD({
        auto *own = static_cast<Recording *>(recording);
        try {
            own->graph.capture_end();
        } catch (...) {
            own->guard.reset();
            throw;
        }
        own->guard.reset();
    })
#else
    (void)recording;
    return nullptr;
#endif
}

// Launches what was recorded, on the current stream.
char *yolo_graph_replay(void *recording) {
#ifdef YOLO_CUDA_HEADERS
    YOLO_GUARD({ static_cast<Recording *>(recording)->graph.replay(); })
#else
    (void)recording;
    return nullptr;
#endif
}

void yolo_graph_free(void *recording) {
#ifdef YOLO_CUDA_HEADERS
    try {
        delete static_cast<Recording *>(recording);
    } catch (...) {
        // Nothing is left to do with it.
    }
#else
    (void)recording;
#endif
}

} // extern "C"
