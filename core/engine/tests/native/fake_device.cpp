// A device that computes as the CPU does, on memory of the host, and refuses what a real one refuses: tensors of the CPU among its own.
// Libtorch knows it as Vulkan, a kind of device that tch can name and that no build of libtorch for servers has kernels for.

#include <ATen/EmptyTensor.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

constexpr auto TYPE = c10::DeviceType::Vulkan;
const c10::Device FAKE(TYPE, 0);

struct Guard final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return TYPE; }
    c10::Device exchangeDevice(c10::Device) const override { return FAKE; }
    c10::Device getDevice() const override { return FAKE; }
    void setDevice(c10::Device) const override {}
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, FAKE); }
    c10::Stream exchangeStream(c10::Stream) const override { return c10::Stream(c10::Stream::DEFAULT, FAKE); }
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }
    bool queryStream(const c10::Stream &) const override { return true; }
    void synchronizeStream(const c10::Stream &) const override {}
};

C10_REGISTER_GUARD_IMPL(Vulkan, Guard)

struct Allocator final : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override {
        c10::DataPtr host = c10::GetCPUAllocator()->allocate(bytes);
        auto deleter = host.get_deleter();
        void *data = host.get();
        return {data, host.release_context(), deleter, FAKE};
    }
    void copy_data(void *to, const void *from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Allocator allocator;

bool is_fake(const at::Tensor &tensor) { return tensor.defined() && tensor.device().type() == TYPE; }

void release(void *storage) { delete static_cast<c10::Storage *>(storage); }

// A storage on `device` over the memory of another, which lives as long.
c10::Storage over(const c10::Storage &storage, c10::Device device) {
    void *data = storage.data_ptr().get();
    c10::DataPtr shared(data, new c10::Storage(storage), release, device);
    auto *owner = device == FAKE ? static_cast<c10::Allocator *>(&allocator) : c10::GetCPUAllocator();
    return {c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(shared), owner, true};
}

at::Tensor moved(const at::Tensor &tensor, c10::Device device) {
    auto key = device == FAKE ? c10::DispatchKey::Vulkan : c10::DispatchKey::CPU;
    auto out = at::detail::make_tensor<c10::TensorImpl>(over(tensor.storage(), device), c10::DispatchKeySet(key),
                                                        tensor.dtype());
    out.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
    return out;
}

// Arguments on the host, and what they were.
struct Arguments {
    std::vector<std::pair<at::Tensor, at::Tensor>> pairs;
    const c10::OperatorHandle &op;
    bool mixes;

    at::Tensor host(const at::Tensor &tensor) {
        if (!is_fake(tensor)) {
            TORCH_CHECK(mixes || !tensor.defined() || tensor.dim() == 0,
                        "Expected all tensors to be on the same device, but found the CPU, too: ", op.schema().name());
            return tensor;
        }
        for (const auto &[original, alias] : pairs) {
            if (original.is_same(tensor)) {
                return alias;
            }
        }
        pairs.emplace_back(tensor, moved(tensor, c10::kCPU));
        return pairs.back().second;
    }

    c10::IValue host(const c10::IValue &value) {
        if (value.isTensor()) {
            return host(value.toTensor());
        }
        if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor &tensor : value.toTensorVector()) {
                list.push_back(host(tensor));
            }
            return list;
        }
        if (value.isOptionalTensorList()) {
            c10::List<std::optional<at::Tensor>> list;
            for (const auto &tensor : value.toOptionalTensorVector()) {
                list.push_back(tensor ? std::optional<at::Tensor>(host(*tensor)) : std::nullopt);
            }
            return list;
        }
        if (value.isDevice()) {
            return c10::Device(c10::kCPU);
        }
        return value;
    }

    // Results are what was passed in, if the operator returns that.
    at::Tensor fake(const at::Tensor &tensor) {
        if (!tensor.defined()) {
            return tensor;
        }
        for (const auto &[original, alias] : pairs) {
            if (alias.is_same(tensor)) {
                return original;
            }
        }
        return moved(tensor, FAKE);
    }

    // Operators may make a result larger than the tensor that they were given for it.
    void resized() {
        for (const auto &[original, alias] : pairs) {
            if (!alias.sizes().equals(original.sizes())) {
                at::native::resize_(original, alias.sizes(), std::nullopt);
                moved(original, c10::kCPU).copy_(alias);
            }
        }
    }
};

template <bool MIXES> void computed(const c10::OperatorHandle &op, torch::jit::Stack *stack) {
    Arguments arguments{{}, op, MIXES};
    const size_t count = op.schema().arguments().size();
    for (size_t i = stack->size() - count; i < stack->size(); ++i) {
        (*stack)[i] = arguments.host((*stack)[i]);
    }
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    arguments.resized();
    for (size_t i = stack->size() - op.schema().returns().size(); i < stack->size(); ++i) {
        c10::IValue &value = (*stack)[i];
        if (value.isTensor()) {
            value = arguments.fake(value.toTensor());
        } else if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor &tensor : value.toTensorVector()) {
                list.push_back(arguments.fake(tensor));
            }
            value = list;
        }
    }
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> kind, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
    return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::Vulkan),
                                     c10::dtype_or_default(kind), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> kind,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
    return at::detail::empty_strided_generic(size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::Vulkan),
                                             c10::dtype_or_default(kind));
}

at::Tensor as_strided(const at::Tensor &self, at::IntArrayRef size, at::IntArrayRef stride,
                      std::optional<int64_t> offset) {
    return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

TORCH_LIBRARY_IMPL(_, Vulkan, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&computed<false>>()); }

TORCH_LIBRARY_IMPL(aten, Vulkan, m) {
    m.impl("empty.memory_format", &empty);
    m.impl("empty_strided", &empty_strided);
    m.impl("as_strided", &as_strided);
    m.impl("view", &at::native::view);
    m.impl("_reshape_alias", &at::native::_reshape_alias);
    m.impl("unfold", &at::native::unfold);
    m.impl("resize_", &at::native::resize_);
    // Copies go between devices.
    m.impl("copy_", torch::CppFunction::makeFromBoxedFunction<&computed<true>>());
    // Libtorch would choose kernels by the kind of device here.
    m.impl("convolution", torch::CppFunction::makeFromBoxedFunction<&computed<false>>());
    m.impl("convolution_backward", torch::CppFunction::makeFromBoxedFunction<&computed<false>>());
}

} // namespace
