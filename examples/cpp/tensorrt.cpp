// A detector of `yolo export --format onnx` (or onnx-qdq) in TensorRT 10 or newer. The engine is made once, on the machine that runs it:
//   trtexec --onnx=best.onnx --saveEngine=best.engine
//   ./tensorrt best.engine picture.jpg [out.jpg]
// best.onnx.json is read from beside the engine; prints `class score x1 y1 x2 y2` in pixels of the picture.
#include <memory>

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include "detect.hpp"

namespace {

void check(cudaError_t code)
{
    if (code != cudaSuccess)
        throw yolo::Error(std::string("CUDA: ") + cudaGetErrorString(code));
}

void need(bool done, const std::string& what)
{
    if (!done)
        throw yolo::Error("TensorRT " + what);
}

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, const char* text) noexcept override
    {
        if (severity <= Severity::kERROR)
            std::fprintf(stderr, "TensorRT: %s\n", text);
    }
};

struct Free {
    void operator()(void* memory) const { cudaFree(memory); }
};

/// Floats on the card.
struct Buffer {
    explicit Buffer(size_t count) : bytes(count * sizeof(float))
    {
        void* memory = nullptr;
        check(cudaMalloc(&memory, bytes));
        data.reset(memory);
    }

    size_t bytes;
    std::unique_ptr<void, Free> data;
};

class Network {
public:
    Network(const std::string& file, const yolo::Description& d) : description(d)
    {
        std::ifstream stream(file, std::ios::binary);
        const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
        runtime.reset(nvinfer1::createInferRuntime(logger));
        need(runtime != nullptr, "can't start");
        engine.reset(runtime->deserializeCudaEngine(bytes.data(), bytes.size()));
        need(engine != nullptr, "can't read " + file + ": an engine runs on the version and the kind of card that it was built with");
        context.reset(engine->createExecutionContext());
        need(context != nullptr, "has no memory for " + file);

        const char* from = description.input.c_str();
        const char* to = description.outputs[0].c_str();
        for (const char* name : {from, to})
            need(engine->getTensorIOMode(name) != nvinfer1::TensorIOMode::kNONE && engine->getTensorDataType(name) == nvinfer1::DataType::kFLOAT,
                 std::string("finds no tensor `") + name + "` of floats in " + file);
        need(context->setInputShape(from, nvinfer1::Dims4(1, 3, description.size.height, description.size.width)),
             "can't run " + file + " at the size that its JSON says");
        const nvinfer1::Dims shape = context->getTensorShape(to);
        need(shape.nbDims == 3 && shape.d[0] == 1 && shape.d[1] > 0 && shape.d[2] == int64_t(5 + description.classes.size()),
             "gives something else than [1, boxes, 5 + classes]: the engine and its JSON don't belong together");
        rows = size_t(shape.d[1]);
        input = std::make_unique<Buffer>(3 * size_t(description.size.area()));
        output = std::make_unique<Buffer>(rows * size_t(shape.d[2]));
        need(context->setTensorAddress(from, input->data.get()) && context->setTensorAddress(to, output->data.get()), "refuses memory");
    }

    std::vector<yolo::Detection> operator()(std::vector<float>& values)
    {
        std::vector<float> boxes(output->bytes / sizeof(float));
        // The default stream: every copy waits for what came before it.
        check(cudaMemcpy(input->data.get(), values.data(), input->bytes, cudaMemcpyHostToDevice));
        need(context->enqueueV3(nullptr), "can't run the engine");
        check(cudaMemcpy(boxes.data(), output->data.get(), output->bytes, cudaMemcpyDeviceToHost));
        return yolo::decode_boxes(boxes.data(), rows, description);
    }

private:
    yolo::Description description;
    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    std::unique_ptr<Buffer> input, output;
    size_t rows = 0;
};

}  // namespace

int main(int argc, char** argv)
{
    return yolo::run<Network>(argc, argv, "boxes");
}
