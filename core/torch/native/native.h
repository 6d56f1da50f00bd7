// What every file of this folder shares: how errors travel and how lists of tensors arrive. The functions are C functions, so that
// the program can find them at run time (see ../build.rs); no header of CUDA is needed to compile any of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstring>
#include <exception>
#include <vector>

// Runs the body; returns null, or the reason as a string for `free`.
#define YOLO_GUARD(body)                                                                                               \
    try {                                                                                                              \
        body;                                                                                                          \
        return nullptr;                                                                                                \
    } catch (const std::exception &error) {                                                                            \
        return strdup(error.what());                                                                                   \
    } catch (...) {                                                                                                    \
        return strdup("an exception of unknown type");                                                                 \
    }

namespace yolo {

using Handle = at::Tensor *;

// The tensors behind `count` handles; no data is copied.
inline std::vector<at::Tensor> list(const Handle *handles, size_t count) {
    std::vector<at::Tensor> tensors;
    tensors.reserve(count);
    for (size_t i = 0; i < count; ++i) {
        tensors.push_back(*handles[i]);
    }
    return tensors;
}

// As torch-sys counts devices: -1 is the CPU, others are CUDA's.
inline c10::Device device(int index) {
    return index < 0 ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

} // namespace yolo
