// Several processes: a store that all ranks reach and a process group over Gloo, both of libtorch's c10d; NCCL between CUDA devices; and
// batch norm with statistics of all ranks. c10d's own class for NCCL needs headers of CUDA, which a PyTorch from pip does not bring:
// the few functions of NCCL's stable C interface are looked up in the library that libtorch has loaded.

#include "native.h"

#include <ATen/Functions.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Logging.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

using Milliseconds = std::chrono::milliseconds;
using StorePtr = c10::intrusive_ptr<c10d::Store>;
using Work = c10::intrusive_ptr<c10d::Work>;

// NCCL's C interface, version 2: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html
class Nccl {
  public:
    Nccl(const StorePtr &store, int rank, int size, int device) : device_(yolo::device(device)) {
        void *library = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_LOCAL);
        if (!library) {
            throw std::runtime_error("NCCL is missing: libnccl.so.2 can't be loaded");
        }
        find(library, "ncclGetUniqueId", get_id_);
        find(library, "ncclCommInitRank", init_);
        find(library, "ncclAllReduce", all_reduce_);
        find(library, "ncclBroadcast", broadcast_);
        find(library, "ncclCommDestroy", destroy_);
        find(library, "ncclCommAbort", abort_);
        find(library, "ncclGetErrorString", text_);
        Id id{};
        if (rank == 0) {
            check(get_id_(&id), "ncclGetUniqueId");
            store->set("nccl", std::vector<uint8_t>(id.bytes, id.bytes + sizeof id.bytes));
        } else {
            auto bytes = store->get("nccl");
            std::memcpy(id.bytes, bytes.data(), std::min(bytes.size(), sizeof id.bytes));
        }
        c10::impl::VirtualGuardImpl(c10::kCUDA).setDevice(device_);
        check(init_(&comm_, size, id, rank), "ncclCommInitRank");
    }

    Nccl(const Nccl &) = delete;
    Nccl &operator=(const Nccl &) = delete;

    ~Nccl() {
        if (comm_) {
            destroy_(comm_);
        }
    }

    // In place, on the current stream.
    void sum(const at::Tensor &tensor) {
        constexpr int SUM = 0;
        void *data = tensor.data_ptr();
        check(all_reduce_(data, data, count(tensor), kind(tensor), SUM, comm_, stream()), "ncclAllReduce");
    }

    // In place, on the current stream.
    void broadcast(const at::Tensor &tensor, int root) {
        void *data = tensor.data_ptr();
        check(broadcast_(data, data, count(tensor), kind(tensor), root, comm_, stream()), "ncclBroadcast");
    }

    void abort() {
        if (comm_) {
            abort_(comm_);
            comm_ = nullptr;
        }
    }

  private:
    struct Id {
        char bytes[128];
    };

    template <typename Function> static void find(void *library, const char *name, Function &function) {
        function = reinterpret_cast<Function>(dlsym(library, name));
        if (!function) {
            throw std::runtime_error(std::string("NCCL is missing: libnccl.so.2 has no ") + name);
        }
    }

    void check(int result, const char *name) const {
        if (result != 0) {
            throw std::runtime_error(std::string(name) + ": " + text_(result));
        }
    }

    void *stream() const { return c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(device_).native_handle(); }

    static size_t count(const at::Tensor &tensor) {
        if (!tensor.is_non_overlapping_and_dense()) {
            throw std::runtime_error("NCCL needs dense tensors");
        }
        return static_cast<size_t>(tensor.numel());
    }

    static int kind(const at::Tensor &tensor) {
        switch (tensor.scalar_type()) {
        case at::kByte: return 1;
        case at::kLong: return 4;
        case at::kHalf: return 6;
        case at::kFloat: return 7;
        case at::kDouble: return 8;
        case at::kBFloat16: return 9;
        default: throw std::runtime_error("NCCL has no such kind of numbers");
        }
    }

    c10::Device device_;
    void *comm_ = nullptr;
    int (*get_id_)(Id *) = nullptr;
    int (*init_)(void **, int, Id, int) = nullptr;
    int (*all_reduce_)(const void *, void *, size_t, int, int, void *, void *) = nullptr;
    int (*broadcast_)(const void *, void *, size_t, int, int, void *, void *) = nullptr;
    int (*destroy_)(void *) = nullptr;
    int (*abort_)(void *) = nullptr;
    const char *(*text_)(int) = nullptr;
};

// The processes that train together. Host data always goes over Gloo; tensors on a CUDA device over NCCL.
struct Group : torch::CustomClassHolder {
    StorePtr store;
    c10::intrusive_ptr<c10d::Backend> host;
    std::unique_ptr<Nccl> device;
    int rank = 0;
    int size = 1;

    // Starts the sum of a dense tensor over all ranks; where there is no work to wait for, the current stream does it.
    Work sum(std::vector<at::Tensor> &tensor) {
        if (tensor[0].is_cuda()) {
            nccl().sum(tensor[0]);
            return {};
        }
        return host->allreduce(tensor);
    }

    Work broadcast(std::vector<at::Tensor> &tensor, int root) {
        if (tensor[0].is_cuda()) {
            nccl().broadcast(tensor[0], root);
            return {};
        }
        c10d::BroadcastOptions options;
        options.rootRank = root;
        return host->broadcast(tensor, options);
    }

    void sum_now(const at::Tensor &tensor) {
        std::vector<at::Tensor> one{tensor};
        if (auto work = sum(one)) {
            work->wait();
        }
    }

  private:
    Nccl &nccl() {
        if (!device) {
            throw std::runtime_error("tensors on a CUDA device need the backend nccl");
        }
        return *device;
    }
};

using GroupPtr = c10::intrusive_ptr<Group>;

Group &group(void *handle) { return **static_cast<GroupPtr *>(handle); }
c10d::Store &store(void *handle) { return **static_cast<StorePtr *>(handle); }

// Tensors of one kind and device as flat pieces of about `bytes`.
std::vector<std::vector<at::Tensor>> buckets(const std::vector<at::Tensor> &tensors, int64_t bytes) {
    std::vector<std::vector<at::Tensor>> all;
    std::vector<int64_t> sizes;
    for (const at::Tensor &tensor : tensors) {
        size_t place = all.size();
        for (size_t i = 0; i < all.size(); ++i) {
            const at::Tensor &first = all[i][0];
            if (first.scalar_type() == tensor.scalar_type() && first.device() == tensor.device() && sizes[i] < bytes) {
                place = i;
            }
        }
        if (place == all.size()) {
            all.emplace_back();
            sizes.push_back(0);
        }
        all[place].push_back(tensor);
        sizes[place] += static_cast<int64_t>(tensor.nbytes());
    }
    return all;
}

at::Tensor flat(const std::vector<at::Tensor> &tensors) {
    std::vector<at::Tensor> rows;
    rows.reserve(tensors.size());
    for (const at::Tensor &tensor : tensors) {
        rows.push_back(tensor.reshape({-1}));
    }
    return at::cat(rows);
}

void scatter(const at::Tensor &flat, const std::vector<at::Tensor> &tensors) {
    int64_t start = 0;
    for (const at::Tensor &tensor : tensors) {
        tensor.copy_(flat.narrow(0, start, tensor.numel()).view(tensor.sizes()));
        start += tensor.numel();
    }
}

// Starts `work` for each bucket, waits for all, and puts the results back.
template <typename Start> void bucketed(const std::vector<at::Tensor> &tensors, int64_t bytes, Start start) {
    at::NoGradGuard no_grad;
    auto parts = buckets(tensors, bytes);
    std::vector<std::vector<at::Tensor>> flats;
    std::vector<Work> works;
    for (const auto &part : parts) {
        flats.push_back({flat(part)});
    }
    for (auto &one : flats) {
        works.push_back(start(one));
    }
    for (size_t i = 0; i < works.size(); ++i) {
        if (works[i]) {
            works[i]->wait();
        }
        scatter(flats[i][0], parts[i]);
    }
}

// Batch norm over the images of all ranks (the statistics of "batch normalization", arXiv 1502.03167, of the joint batch). With n
// values per channel in all: mean = sum x / n, var = sum x^2 / n - mean^2, and for the gradient g of the result y = w (x - mean) s + b:
// dx = w s (g - sum g / n - (x - mean) s^2 sum(g (x - mean)) / n). The gradients of w and b are those of this rank's images: they are
// summed with all others.
struct SyncBatchNorm : torch::autograd::Function<SyncBatchNorm> {
    static at::Tensor forward(
        torch::autograd::AutogradContext *context, const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias,
        const at::Tensor &running_mean, const at::Tensor &running_var, GroupPtr group, double momentum, double eps, bool counted
    ) {
        const int64_t channels = x.size(1);
        // One reduction of sums in f64: n, sum x, sum x^2. Of each rank's mean and variance, which libtorch takes without cancellation.
        auto zeros = at::zeros({channels}, running_mean.options());
        auto [own_mean, own_var] = at::batch_norm_update_stats(x, zeros, at::ones_like(zeros), 0.0);
        const double own = static_cast<double>(x.numel() / channels);
        auto sums = at::empty({2 * channels + 1}, x.options().dtype(at::kDouble).memory_format(c10::nullopt));
        if (counted) {
            auto mean64 = own_mean.to(at::kDouble);
            sums.narrow(0, 0, channels).copy_(mean64 * own);
            sums.narrow(0, channels, channels).copy_((own_var.to(at::kDouble) + mean64.square()) * own);
            sums.narrow(0, 2 * channels, 1).fill_(own);
        } else {
            sums.zero_();
        }
        group->sum_now(sums);
        auto n = sums.narrow(0, 2 * channels, 1);
        auto mean = sums.narrow(0, 0, channels) / n;
        auto var = (sums.narrow(0, channels, channels) / n - mean.square()).clamp_min(0.0);
        running_mean.lerp_(mean.to(running_mean.scalar_type()), momentum);
        running_var.lerp_((var * (n / (n - 1.0).clamp_min(1.0))).to(running_var.scalar_type()), momentum);
        mean = mean.to(running_mean.scalar_type());
        var = var.to(running_mean.scalar_type());
        auto y = std::get<0>(at::native_batch_norm(x, weight, bias, mean, var, /*training=*/false, 0.0, eps));
        context->save_for_backward({x, weight, mean, var, n.to(mean.scalar_type())});
        context->saved_data["group"] = c10::IValue::make_capsule(group);
        context->saved_data["eps"] = eps;
        context->saved_data["counted"] = counted;
        return y;
    }

    static torch::autograd::variable_list
    backward(torch::autograd::AutogradContext *context, torch::autograd::variable_list gradients) {
        auto saved = context->get_saved_variables();
        const auto &[x, weight, mean, var, n] = std::tie(saved[0], saved[1], saved[2], saved[3], saved[4]);
        const double eps = context->saved_data["eps"].toDouble();
        auto group = c10::static_intrusive_pointer_cast<Group>(context->saved_data["group"].toCapsule());
        const int64_t channels = x.size(1);
        // As if the statistics were constants: g w s, sum(g (x - mean)) s, sum g.
        auto [dx, dweight, dbias] = at::native_batch_norm_backward(
            gradients[0], x, weight, mean, var, {}, {}, /*train=*/false, eps, {true, true, true}
        );
        auto sums = at::cat({dweight, dbias}).to(at::kDouble);
        const bool counted = context->saved_data["counted"].toBool();
        if (!counted) {
            sums.zero_();
        }
        group->sum_now(sums);
        if (counted) {
            // What the statistics add: - w s (mean g + (x - mean) s mean(g (x - mean) s)).
            sums = (sums / n).to(mean.scalar_type());
            auto scale = (var + eps).rsqrt();
            auto slope = weight * scale * scale * sums.narrow(0, 0, channels);
            auto offset = weight * scale * sums.narrow(0, channels, channels);
            std::vector<int64_t> shape(x.dim(), 1);
            shape[1] = channels;
            // The mean is taken off first: where a channel varies little around a large mean, it would take the digits with it later.
            auto centred = x.to(mean.scalar_type()) - mean.view(shape);
            auto line = at::addcmul(offset.view(shape), centred, slope.view(shape));
            dx = (dx.to(mean.scalar_type()) - line).to(x.scalar_type());
        }
        return {dx, dweight, dbias, {}, {}, {}, {}, {}, {}};
    }
};

} // namespace

extern "C" {

// Connects to the store at `address`, and hosts it where `host` is set. Every key gets the prefix.
char *yolo_store_open(const char *address, int port, int host, int64_t milliseconds, const char *prefix, void **out) {
    YOLO_GUARD({
        // Its errors come back with a reason; what it logs besides is for those who asked for it.
        if (!std::getenv("TORCH_CPP_LOG_LEVEL")) {
            FLAGS_caffe2_log_level = 3;
        }
        c10d::TCPStoreOptions options;
        options.port = static_cast<uint16_t>(port);
        options.isServer = host != 0;
        options.waitWorkers = false;
        options.timeout = Milliseconds(milliseconds);
        auto tcp = c10::make_intrusive<c10d::TCPStore>(std::string(address), options);
        tcp->setTimeout(Milliseconds(milliseconds));
        *out = new StorePtr(c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), StorePtr(std::move(tcp))));
    })
}

void yolo_store_close(void *handle) { delete static_cast<StorePtr *>(handle); }

char *yolo_store_set(void *handle, const char *key, const uint8_t *bytes, size_t length) {
    YOLO_GUARD({ store(handle).set(std::string(key), std::vector<uint8_t>(bytes, bytes + length)); })
}

// Whether all keys are there now; does not wait.
char *yolo_store_has(void *handle, const char *key, int *there) {
    YOLO_GUARD({ *there = store(handle).check({std::string(key)}) ? 1 : 0; })
}

// Waits for the key; the bytes are for `free`.
char *yolo_store_get(void *handle, const char *key, uint8_t **bytes, size_t *length) {
    YOLO_GUARD({
        auto value = store(handle).get(std::string(key));
        *bytes = static_cast<uint8_t *>(std::malloc(value.size() + 1));
        if (!*bytes) {
            throw std::bad_alloc();
        }
        std::memcpy(*bytes, value.data(), value.size());
        *length = value.size();
    })
}

// Adds to the number behind the key (0 where there is none); returns the sum.
char *yolo_store_add(void *handle, const char *key, int64_t value, int64_t *sum) {
    YOLO_GUARD({ *sum = store(handle).add(std::string(key), value); })
}

// Joins the ranks of a store: over Gloo, and over NCCL too where `device` (a CUDA device of this process) is not -1. `address` is the
// local one to listen at, or empty for the one of the machine's name.
char *yolo_group_join(
    void *store_handle, int rank, int size, int device, const char *address, int64_t milliseconds, void **out
) {
    YOLO_GUARD({
        const StorePtr &store = *static_cast<StorePtr *>(store_handle);
        Milliseconds timeout(milliseconds);
        auto group = c10::make_intrusive<Group>();
        group->store = store;
        group->rank = rank;
        group->size = size;
        auto options = c10d::ProcessGroupGloo::Options::create_default(timeout);
        if (*address) {
            options->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(address)};
        }
        StorePtr part = c10::make_intrusive<c10d::PrefixStore>("gloo", store);
        group->host = c10::make_intrusive<c10d::ProcessGroupGloo>(part, rank, size, options);
        if (device >= 0) {
            group->device = std::make_unique<Nccl>(store, rank, size, device);
        }
        *out = new GroupPtr(std::move(group));
    })
}

void yolo_group_leave(void *handle) { delete static_cast<GroupPtr *>(handle); }

// Gives up what other ranks are waited for in.
char *yolo_group_abort(void *handle) {
    YOLO_GUARD({
        Group &all = group(handle);
        all.host->abort();
        if (all.device) {
            all.device->abort();
        }
    })
}

// Each tensor becomes its sum over all ranks.
char *yolo_group_sum(void *handle, const yolo::Handle *tensors, size_t count, int64_t bucket_bytes) {
    YOLO_GUARD({
        Group &all = group(handle);
        bucketed(yolo::list(tensors, count), bucket_bytes, [&all](auto &one) { return all.sum(one); });
    })
}

// Each tensor becomes that of rank `root`.
char *yolo_group_broadcast(void *handle, const yolo::Handle *tensors, size_t count, int root, int64_t bucket_bytes) {
    YOLO_GUARD({
        Group &all = group(handle);
        bucketed(yolo::list(tensors, count), bucket_bytes, [&all, root](auto &one) { return all.broadcast(one, root); });
    })
}

// `[ranks, ...]` of a contiguous tensor on the host that has the same shape on all ranks; only on rank 0.
char *yolo_group_gather(void *handle, yolo::Handle tensor, yolo::Handle out) {
    YOLO_GUARD({
        Group &all = group(handle);
        std::vector<at::Tensor> inputs{*tensor};
        std::vector<std::vector<at::Tensor>> outputs;
        if (all.rank == 0) {
            outputs.emplace_back();
            for (int i = 0; i < all.size; ++i) {
                outputs[0].push_back(at::empty_like(*tensor));
            }
        }
        c10d::GatherOptions options;
        options.rootRank = 0;
        all.host->gather(outputs, inputs, options)->wait();
        if (all.rank == 0) {
            *out = at::stack(outputs[0]);
        }
    })
}

// Batch norm in training over the images of all ranks; updates the running statistics. A rank whose images don't count (`counted` 0)
// only takes part.
char *yolo_sync_batch_norm(
    void *handle, yolo::Handle x, const yolo::Handle *params, double momentum, double eps, int counted, yolo::Handle out
) {
    YOLO_GUARD({
        const GroupPtr &all = *static_cast<GroupPtr *>(handle);
        *out = SyncBatchNorm::apply(*x, *params[0], *params[1], *params[2], *params[3], all, momentum, eps, counted != 0);
    })
}

} // extern "C"
