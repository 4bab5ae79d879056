"""What a worker keeps of published weights: keys, manifests, who publishes, who may."""
