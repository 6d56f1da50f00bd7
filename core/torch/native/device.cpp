// Devices: what they can do, memory, streams. Through the interfaces that libtorch has for any accelerator, so that no header of CUDA
// is needed; on a build without CUDA they answer that there is none.

#include "native.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>

#include <stdexcept>

namespace {

c10::impl::VirtualGuardImpl cuda() { return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA); }

} // namespace

extern "C" {

// Most bytes that tensors have held at once on a device since the last reset, and what the allocator has taken from the device.
char *yolo_memory(int device, int64_t *peak_allocated, int64_t *peak_reserved) {
    YOLO_GUARD({
        auto stats = at::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
        *peak_allocated = stats.allocated_bytes[0].peak;
        *peak_reserved = stats.reserved_bytes[0].peak;
    })
}

char *yolo_reset_memory(int device) {
    YOLO_GUARD({ at::getDeviceAllocator(c10::DeviceType::CUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(device)); })
}

// Gives memory that no tensor uses back to the device.
char *yolo_empty_cache() {
    YOLO_GUARD({ at::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache(); })
}

// Free and total bytes of a device.
char *yolo_memory_info(int device, int64_t *free, int64_t *total) {
    YOLO_GUARD({
        auto info = at::getDeviceAllocator(c10::DeviceType::CUDA)->getMemoryInfo(static_cast<c10::DeviceIndex>(device));
        *free = static_cast<int64_t>(info.first);
        *total = static_cast<int64_t>(info.second);
    })
}

// Makes a device the one that new CUDA work of this thread goes to.
char *yolo_set_device(int device) {
    YOLO_GUARD({ cuda().setDevice(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device))); })
}

// Convolutions in TF32, reductions of bf16 products in f32: what mixed precision is meant to be.
char *yolo_allow_tf32(int allow) {
    YOLO_GUARD({
        at::globalContext().setAllowTF32CuDNN(allow != 0);
        at::globalContext().setAllowTF32CuBLAS(allow != 0);
    })
}

// Bytes on the host that a device reads by itself, so that the copy runs beside other work: a new tensor in `out`.
char *yolo_pinned_bytes(const int64_t *shape, size_t dims, yolo::Handle out) {
    YOLO_GUARD({ *out = at::empty(at::IntArrayRef(shape, dims), at::TensorOptions().dtype(at::kByte).pinned_memory(true)); })
}

// A copy on the host that a device reads by itself. (The function of torch-sys names the device, which PyTorch warns of.)
char *yolo_pinned(yolo::Handle tensor, yolo::Handle out) {
    YOLO_GUARD({ *out = tensor->pin_memory(); })
}

// A stream of its own on a device: its id, for the functions below.
char *yolo_new_stream(int device, int64_t *id) {
    YOLO_GUARD({
        auto stream = cuda().getStreamFromGlobalPool(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device)));
        *id = stream.id();
    })
}

// Copies pinned bytes to the device on stream `id`. `out` may be used on the current stream at once, which waits for the copy.
char *yolo_copy_on_stream(yolo::Handle pinned, int device, int64_t id, yolo::Handle out) {
    YOLO_GUARD({
        auto guard = cuda();
        c10::Device where(c10::kCUDA, static_cast<c10::DeviceIndex>(device));
        c10::Stream side(c10::Stream::UNSAFE, where, id);
        auto current = guard.getStream(where);
        guard.exchangeStream(side);
        try {
            *out = pinned->to(where, pinned->scalar_type(), /*non_blocking=*/true);
        } catch (...) {
            guard.exchangeStream(current);
            throw;
        }
        guard.exchangeStream(current);
        c10::Event copied(c10::DeviceType::CUDA);
        copied.record(side);
        copied.block(current);
        guard.recordDataPtrOnStream(out->storage().data_ptr(), current);
    })
}

// Name and compute capability of a CUDA device, asked of the driver that libtorch has loaded.
char *yolo_device_properties(int device, char *name, int length, int *major, int *minor) {
    YOLO_GUARD({
        void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
        if (!driver) {
            throw std::runtime_error("there is no driver for CUDA (libcuda.so.1)");
        }
        auto attribute = reinterpret_cast<int (*)(int *, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
        auto get_name = reinterpret_cast<int (*)(char *, int, int)>(dlsym(driver, "cuDeviceGetName"));
        constexpr int MAJOR = 75;
        constexpr int MINOR = 76;
        if (!attribute || !get_name || attribute(major, MAJOR, device) || attribute(minor, MINOR, device) ||
            get_name(name, length, device)) {
            throw std::runtime_error("the driver for CUDA does not describe the device");
        }
    })
}

} // extern "C"
