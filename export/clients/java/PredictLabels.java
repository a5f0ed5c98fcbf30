import com.google.protobuf.ByteString;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import tensorflow.serving.DataType;
import tensorflow.serving.ModelSpec;
import tensorflow.serving.PredictRequest;
import tensorflow.serving.PredictResponse;
import tensorflow.serving.PredictionServiceGrpc;
import tensorflow.serving.TensorProto;
import tensorflow.serving.TensorShapeProto;

/**
 * Asks TF Serving for the labels of texts: java PredictLabels HOST:PORT MODEL TEXT...
 *
 * <p>It is compiled with what protoc and its plugin protoc-gen-grpc-java make of predict.proto, and
 * with io.grpc:grpc-netty-shaded, grpc-protobuf and grpc-stub of Maven:
 *
 * <pre>
 * protoc -I.. --java_out=src --grpc-java_out=src predict.proto
 * </pre>
 */
public final class PredictLabels {
  private static final long TIMEOUT_S = 5;

  public static void main(String[] arguments) throws InterruptedException {
    if (arguments.length < 3) {
      // A request without rows would delay the batches of others.
      System.err.println("usage: java PredictLabels HOST:PORT MODEL TEXT...");
      System.exit(2);
    }
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
    try {
      List<String> texts = Arrays.asList(arguments).subList(2, arguments.length);
      PredictResponse response =
          PredictionServiceGrpc.newBlockingStub(channel)
              .withDeadlineAfter(TIMEOUT_S, TimeUnit.SECONDS)
              .predict(makeRequest(arguments[1], texts));
      TensorProto labels = response.getOutputsOrThrow("label");
      TensorProto probabilities = response.getOutputsOrThrow("probabilities");
      int width = (int) probabilities.getTensorShape().getDim(1).getSize();
      for (int row = 0; row < texts.size(); row++) {
        // The label is empty if the server could not compute this row.
        String label = labels.getStringVal(row).toStringUtf8();
        List<Float> values = probabilities.getFloatValList();
        System.out.println(label + " " + values.subList(row * width, (row + 1) * width));
      }
    } finally {
      channel.shutdownNow().awaitTermination(TIMEOUT_S, TimeUnit.SECONDS);
    }
  }

  private static PredictRequest makeRequest(String model, List<String> texts) {
    TensorProto.Builder text =
        TensorProto.newBuilder()
            .setDtype(DataType.DT_STRING)
            .setTensorShape(
                TensorShapeProto.newBuilder()
                    .addDim(TensorShapeProto.Dim.newBuilder().setSize(texts.size())));
    texts.forEach(each -> text.addStringVal(ByteString.copyFromUtf8(each)));
    return PredictRequest.newBuilder()
        .setModelSpec(ModelSpec.newBuilder().setName(model).setSignatureName("classify_text"))
        .putInputs("text", text.build())
        .build();
  }
}
